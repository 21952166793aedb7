"""Files and folders that are written beside their place, under a lock that ends with their process.

What a killed process was writing stays as ``<name>.<random>.tmp``. Whoever writes next in the folder removes it, unless
somebody holds its lock.
"""

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from oboro.base.remark import remark
from oboro.base.whole_file import remove

TEMPORARY, LOCK = ".tmp", ".lock"
OURS = re.compile(rf"\.[0-9a-f]{{32}}{re.escape(TEMPORARY)}$")  # the folder may be one of the user's
UNKNOWN = 7 * 24 * 3600.0  # seconds after which nobody is writing any more to what has no lock: of earlier versions


def beside(path: Path) -> Path:
    """An unused temporary path in the folder of ``path``, from where a rename to ``path`` is atomic."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY}")


@contextmanager
def held(temporary: Path) -> Iterator[None]:
    """While the block runs, ``temporary`` is not taken for abandoned; after it, it is gone.

    The block makes it: what exists before it has its lock can be taken for abandoned by one who looks in between. Its
    folder exists. Where the file system has no locks, nothing is ever taken for abandoned.
    """
    lock = FileLock(_lock_of(temporary))
    with suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        remove(temporary)
        lock.release()
        with suppress(OSError):
            _lock_of(temporary).unlink(missing_ok=True)


def clear_abandoned(folder: Path) -> None:
    """Remove what killed processes were writing in ``folder``, with a remark."""
    for temporary in [path for path in folder.glob(f"*{TEMPORARY}") if OURS.search(path.name)]:
        with suppress(OSError, NotImplementedError, Timeout):
            if _lock_of(temporary).exists():
                with FileLock(_lock_of(temporary)).acquire(timeout=0):
                    if not temporary.exists():  # its writer has just ended
                        continue
                    remove(temporary)
                    remark(f"{temporary} was left by a process that was killed: it is removed")
            elif time.time() - _last_written(temporary) > UNKNOWN:
                remove(temporary)
                remark(f"{temporary} was left by a process that was killed: it is removed")
    for lock in folder.glob(f"*{TEMPORARY}{LOCK}"):
        with suppress(OSError, NotImplementedError, Timeout):
            temporary = lock.with_name(lock.name.removesuffix(LOCK))
            if OURS.search(temporary.name) and not temporary.exists():
                with FileLock(lock).acquire(timeout=0):  # somebody is about to make it
                    lock.unlink()


def _lock_of(temporary: Path) -> Path:
    return temporary.with_name(temporary.name + LOCK)


def _last_written(path: Path) -> float:
    return max(entry.stat().st_mtime for entry in (path, *path.rglob("*")))
