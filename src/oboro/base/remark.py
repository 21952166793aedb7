"""What a user should know, and nothing need stop for: one line, from the first process alone."""

import logging

from lightning.fabric.utilities.rank_zero import rank_zero_only

log = logging.getLogger("oboro")


@rank_zero_only
def remark(sentence: str) -> None:
    log.warning(sentence)
