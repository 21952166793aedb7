"""What a user should know, and nothing need stop for: one line, from the first process alone."""

import logging

from lightning.fabric.utilities.rank_zero import rank_zero_only

from oboro.base.secret import visible

log = logging.getLogger("oboro")


@rank_zero_only
def remark(sentence: str) -> None:
    log.warning(visible(sentence))


@rank_zero_only
def notice(sentence: str) -> None:
    """What a run does, where nothing is amiss: a plain line on the terminal, and in the log."""
    log.info(visible(sentence))
    print(visible(sentence))
