"""Signals that ask a program to end.

Ctrl-C, ``kill``, a closed terminal and SIGUSR1, by which SLURM announces the end of a job's time, end a program in
order: they raise ``Interrupted``, at once, or, where much would be lost (``hold``), at the next point at which all
ranks are between two pieces of work (``oboro.base.distributed``). The handlers do nothing else, so that none of them
waits for another process. A second Ctrl-C ends the program where it is.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # Windows has two of them
PATIENCE = 5  # seconds that a process which serves another one lives after a SIGTERM


class Interrupted(SystemExit):
    """The signal ``number`` ended the program. Its exit status is what a shell reports of a signal, 128 + number.
    ``reported``: a line has said so."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = int(number)
        self.reported = False

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name


@dataclass
class _State:
    received: int = 0  # the first signal that came; 0: none
    holds: bool = False  # whether signals wait
    ends: bool = False  # whether ``Interrupted`` was raised


_state = _State()


@contextlib.contextmanager
def handled(speaks: bool = True, at_once: Callable[[], None] = lambda: None) -> Iterator[None]:
    """In the block signals raise ``Interrupted``; the handlers that there were come back after it.

    A signal that is ignored (``nohup``, a job in the background) stays so. Outside of the main thread Python lets
    nobody handle signals, and nothing happens. With ``speaks`` a signal says on stderr what it does. A second Ctrl-C
    calls ``at_once``, which ends what would live on, and leaves.
    """
    global _state
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    outer, _state = _state, _State()

    def handle(number: int, frame: FrameType | None) -> None:
        if _state.received and number == signal.SIGINT:
            at_once()
            os._exit(128 + number)
        if _state.received or _state.ends:
            return
        _state.received = number
        if not _state.holds:
            end(number)
        if speaks:
            say(f"\n{signal.Signals(number).name}: ends at the next step; Ctrl-C ends at once")

    for number in ours:
        signal.signal(number, handle)
    try:
        yield
    except Interrupted as ended:
        if speaks and not ended.reported:
            say(f"{ended.name}: ended before it was done")
        raise
    finally:
        for number in ours:
            signal.signal(number, before[number])
        _state = outer


def say(line: str) -> None:
    """On stderr. In a handler ``print`` may be in the middle of a line."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def hold() -> None:
    """From here on signals wait until ``check`` or ``end``."""
    _state.holds = True


def held() -> int:
    """The signal that waits; 0 where none does."""
    return 0 if _state.ends or not _state.holds else _state.received


def check() -> None:
    """Raises ``Interrupted`` where a signal waits: for a process that no other has to follow."""
    if held():
        end(held())


def end(number: int) -> NoReturn:
    """Raises ``Interrupted``; signals that come later change nothing."""
    _state.ends = True
    raise Interrupted(number)


def ends() -> bool:
    """Whether ``Interrupted`` was raised, so that other ranks end, too."""
    return _state.ends


def outlive_signals(worker: int) -> None:
    """For a process that serves this one and ends with it, such as a worker of a data loader: who signals a whole group
    (a terminal, SLURM, ``timeout``) does not take it from a run that is about to save. After a SIGTERM, which is also
    how the run itself ends a worker that does not listen, it lives a while."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(PATIENCE))
