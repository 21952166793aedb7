"""What a run tells about itself in passing."""

import logging
import os
import sys


def notice(log: logging.Logger, text: str) -> None:
    """``text``, one line, on the terminal and in the log of the run, by the first process of a node alone."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        log.info(text)
        print(text, file=sys.stderr)
