"""Who owns a folder: the process of a run holds a lock on a file in it as long as it lives.

The file says which run that is. A lock is taken back by the operating system, however its process ends; the file stays,
and tells of the last run. Where there are no locks (Windows, some network file systems) it names the process, which
can be looked for on its own machine alone.
"""

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from oboro.base.errors import UserError
from oboro.base.json_text import json_text, read_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".running"
PATIENCE = 1.0  # seconds that a lock is tried for: who looks at it holds it for an instant
PAUSE = 0.05


@dataclass(frozen=True)
class Record:
    """The last run of a folder: its command, its process, when it started and ended (ISO 8601, local time), and whether
    it came to the end that was planned."""

    command: str
    host: str
    process: int
    started: str
    ended: str | None = None
    finished: bool = False

    @property
    def alive(self) -> bool | None:
        """Whether the process exists; None of another machine, and on Windows, where looking is not harmless."""
        if self.ended is not None or (self.process == os.getpid() and self.host == socket.gethostname()):
            return False  # of this number: in a container that starts again, processes have the same ones
        if self.host != socket.gethostname() or os.name != "posix":
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's
            return True
        return True

    @property
    def since(self) -> str:
        return self.started.replace("T", " ")[:16]


@dataclass
class _Held:
    descriptor: int
    record: Record

    def write(self) -> None:
        with suppress(OSError):  # a full disk: the lock holds without a text
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, (json_text(asdict(self.record)) + "\n").encode(), 0)


_held: dict[Path, _Held] = {}  # the folders that this process owns


def take(folder: Path, command: str, check: Callable[[], None] = lambda: None) -> Record | None:
    """Own ``folder``, which exists, until ``release``; what the run before left there, None without one.

    ``check`` is called before anything is written and again under the lock: what it raises, is raised. Raises
    ``UserError`` where another process has it, or where nothing can be written. Nothing happens where this process has
    it already.
    """
    if owned(folder):
        return read_record(folder)
    if is_running(folder):
        raise UserError(busy(folder))
    check()
    before = read_record(folder)
    while True:
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            raise UserError(
                f"cannot write to {folder}: {error.strerror}; choose another folder with hydra.run.dir=..."
            ) from error
        try:
            locked = _lock(descriptor)
            if locked is False or (locked is None and before is not None and before.alive):
                raise UserError(busy(folder))
            if _is(descriptor, folder / LOCK):  # not of a folder that was removed while it was waited for
                before = read_record(folder)
                check()
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now().isoformat(timespec="seconds")
    finished = before is not None and before.finished  # until the new run has begun
    held = _Held(descriptor, Record(command, socket.gethostname(), os.getpid(), now, finished=finished))
    held.write()
    _held[folder.resolve()] = held
    return before


def _lock(descriptor: int) -> bool | None:
    """Whether the file is locked for this process now; None where there are no locks."""
    if fcntl is None:
        return None
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(PAUSE)
        except OSError:
            return None


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def busy(folder: Path) -> str:
    """What to say of a folder in which a run is going on."""
    record = read_record(folder)
    who = f" since {record.since} (process {record.process} on {record.host})" if record else ""
    return (
        f"a run is going on in {folder}{who}; wait for it, end it, or choose another folder with hydra.run.dir=<folder>"
    )


def owned(folder: Path) -> bool:
    """Whether this process has taken ``folder``."""
    return folder.resolve() in _held


def mark(folder: Path, finished: bool) -> None:
    """Write down whether the run in ``folder`` came to its end. Nothing happens where this process does not own it."""
    if held := _held.get(folder.resolve()):
        held.record = replace(held.record, finished=finished)
        held.write()


def release(folder: Path) -> None:
    """Give ``folder`` back, with the time in its record."""
    if held := _held.pop(folder.resolve(), None):
        held.record = replace(held.record, ended=datetime.now().isoformat(timespec="seconds"))
        held.write()
        os.close(held.descriptor)


def release_all() -> None:
    for folder in list(_held):
        release(folder)


def _forget() -> None:
    """In a forked child, such as a worker of a data loader: it may live longer and is not the run."""
    for held in _held.values():
        with suppress(OSError):
            os.close(held.descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def read_record(folder: Path) -> Record | None:
    """The record in ``folder``; None without one, and of versions that wrote none."""
    try:
        return Record(**read_json((folder / LOCK).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def is_running(folder: Path) -> bool | None:
    """Whether a process runs in ``folder``; None where that is not known: without a record, and where there are no
    locks of a process on another machine."""
    try:
        with (folder / LOCK).open() as file:
            if fcntl is None:
                raise OSError
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return None
    except OSError:
        record = read_record(folder)
        return record.alive if record else None
    return False
