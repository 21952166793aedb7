"""How every command ends: a mistake of the user in one line on stderr, a reader that is gone without a word."""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from oboro.base.secret import visible
from oboro.cli.error_messages import explain

MISTAKE = 1
READER_GONE = 141  # what a shell reports of a program that SIGPIPE ended: `oboro train --help | head`


@contextmanager
def ending(traceback: bool = False) -> Iterator[None]:
    """A mistake of the user in the block becomes ``error: <one sentence>.`` and exit status 1; with ``traceback``, and
    for any other exception, which is ours, it passes. A closed stdout or stderr ends the program with status 141."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # what is printed is printed here, not when the interpreter ends
    except BrokenPipeError:
        if not reader_is_gone():
            raise  # another pipe, to a worker for example
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # the interpreter flushes them once more
            os.dup2(nowhere, stream.fileno())
        raise SystemExit(READER_GONE) from None
    except Exception as error:
        message = explain(error)
        if traceback or message is None:
            raise
        raise SystemExit(f"error: {sentence(message)}" if is_first_process() else MISTAKE) from None


def sentence(message: str) -> str:
    """``message`` in one line with a full stop, as it may be printed."""
    message = visible(" ".join(message.split()))
    return message if message.endswith((".", "?", "!")) else f"{message}."


def reader_is_gone() -> bool:
    """Whether stdout or stderr is a pipe that nobody reads any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream.fileno(), 0)  # errors are reported whatever is asked for
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def is_first_process() -> bool:
    """Ranks started by Lightning repeat the mistakes of the first one; they stay silent."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
