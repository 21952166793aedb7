"""Whether a run is going on, as others see it: its process holds a lock on a file in its folder as long as it lives."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

LOCK = ".running"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[None]:
    """The block is the run in ``folder``. However its process ends, the operating system takes the lock back.

    Where there are no locks (Windows, some file systems) nothing says whether a run is going on.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl  # not on Windows

            fcntl.flock(stack.enter_context((folder / LOCK).open("w")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_running(folder: Path) -> bool | None:
    """Whether a process runs in ``folder``; None where that is not known, as of runs of older versions."""
    try:
        import fcntl

        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return None
    return False
