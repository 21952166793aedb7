"""How every command ends: a mistake of the user in one line on stderr, a reader that is gone without a word."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from oboro.base.errors import OwnFault
from oboro.base.secret import visible
from oboro.cli.error_messages import explain
from oboro.cli.mistakes_of_ranks import is_first_process, to_show
from oboro.cli.streams import Stream, streams

MISTAKE = 1
INTERRUPTED = 130
READER_GONE = 141  # what a shell reports of a program that SIGPIPE ended: `oboro train --help | head`


@contextmanager
def ending(traceback: bool = False) -> Iterator[None]:
    """A mistake of the user in the block becomes ``error: <one sentence>.`` and exit status 1; with ``traceback``, and
    for any other exception, which is ours, it passes. Ctrl-C ends it with status 130.

    What cannot be printed does not end the block. Afterwards the status is 141 where the reader of stdout or stderr is
    gone, and 1, with one line, where stdout could not be written for another reason.
    """
    outermost = not isinstance(sys.stdout, Stream)
    with streams() as (out, err):
        try:
            yield
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except SystemExit as end:
            if end.code:
                raise
        except Exception as error:
            message = explain(error)
            if traceback or message is None:
                raise
            shown = message if isinstance(error, OwnFault) else to_show(message)
            raise SystemExit(MISTAKE if shown is None else f"error: {sentence(shown)}") from None
    if outermost and is_first_process():
        if out.reader_gone or err.reader_gone:
            raise SystemExit(READER_GONE)
        if out.failure is not None:
            reason = out.failure.strerror
            raise SystemExit(f"error: stdout cannot be written: {reason}; files are written all the same.")


def sentence(message: str) -> str:
    """``message`` in one line with a full stop, as it may be printed."""
    message = visible(" ".join(message.split()))
    return message if message.endswith((".", "?", "!")) else f"{message}."
