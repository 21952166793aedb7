"""Ranks that hang: each gives signs of life to the others, and one that gives none ends the run."""

import contextlib
import threading
from typing import Any

from lightning import Callback, Trainer

from oboro.base import distributed
from oboro.cli.ranks import end_all

BEATS = 10  # within the time that a rank may be silent
LAST = 5.0  # seconds in which the last sign is given
SOON = 1.0  # seconds that an error waits for signs that are under way
KEY = "sign of life"
OVER = "over"  # the last sign of a rank that has done its work


class Watchdog(Callback):
    """Ends the run, with a line that names rank and step, when a rank gives no sign of life for ``seconds``.

    A thread of each rank writes where the rank is to the store at which they have met, and reads the others'. So a
    process that is stopped, or a machine that is gone, is noticed; one that only computes for long is alive. Time in
    which the rank that watches is stopped itself does not count.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._stop = threading.Event()
        self._over = False
        self._threads: list[threading.Thread] = []
        self._signs: dict[int, str] = {}  # the last of each other rank

    def setup(self, trainer: Trainer, task: Any, stage: str) -> None:
        store = distributed.meeting_point(self.seconds)
        if store is None:
            return
        self._stop = threading.Event()  # a run that has gone back to a checkpoint begins anew
        self._signs = {rank: "" for rank in range(trainer.world_size) if rank != trainer.global_rank}
        for work, *arguments in ((self._exchange, trainer, store, self._stop), (self._watch, trainer, self._stop)):
            self._threads.append(threading.Thread(target=work, args=arguments, name="watchdog", daemon=True))
            self._threads[-1].start()

    def teardown(self, trainer: Trainer, task: Any, stage: str) -> None:
        self._over = True
        self._end(LAST)

    def on_exception(self, trainer: Trainer, task: Any, exception: BaseException) -> None:
        self._end(SOON)

    def _end(self, seconds: float) -> None:
        self._stop.set()
        for thread in self._threads:  # one that is within the store when the interpreter ends would abort the process
            thread.join(seconds)
        self._threads = []

    def _exchange(self, trainer: Trainer, store: Any, stop: threading.Event) -> None:
        """Where rank 0, whose store it is, does not answer, this waits: no signs come from anyone."""
        beat, place = 0, f"{KEY}/{trainer.global_rank}"
        while not stop.wait(self.seconds / BEATS):
            beat += 1
            with contextlib.suppress(RuntimeError):
                store.set(place, f"{beat} {trainer.global_step}")
                for rank in self._signs:
                    if store.check([f"{KEY}/{rank}"]):
                        self._signs[rank] = store.get(f"{KEY}/{rank}").decode()
        if self._over:
            with contextlib.suppress(RuntimeError):
                store.set(place, OVER)

    def _watch(self, trainer: Trainer, stop: threading.Event) -> None:
        before, silent = dict(self._signs), dict.fromkeys(self._signs, 0)
        while not stop.wait(self.seconds / BEATS):
            now = dict(self._signs)
            for rank, sign in now.items():
                silent[rank] = silent[rank] + 1 if sign == before[rank] != OVER else 0
            before = now
            lost = next((rank for rank in now if silent[rank] > BEATS), None)
            if lost is not None:
                step, own = now[lost].partition(" ")[2] or 0, trainer.global_rank
                end_all(
                    f"rank {lost} has given no sign of life for {self.seconds:g} s; its last one was at step {step}, "
                    f"and rank {own} waits after step {trainer.global_step}",
                    first=lost == 0,
                )
