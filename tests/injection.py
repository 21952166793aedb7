"""Faults that happen inside of a run: ``+callbacks.fault={_target_: injection.Fault, does: sigterm, step: 3}``.

The run meets them by itself, at the moment that is named, so that no test has to wait for it.
"""

import io
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from oboro.base import whole_file
from oboro.callbacks.evaluation import MetricEvaluation
from oboro.callbacks.sample_grid import SampleGrid
from oboro.task import Task


class Injected(Exception):
    """An error that no code knows of."""


def send(name: str) -> Callable[[Trainer, Task], None]:
    def act(trainer: Trainer, task: Task) -> None:
        os.kill(os.getpid(), getattr(signal, name.upper()))

    return act


def fail(trainer: Trainer, task: Task) -> None:
    raise Injected(f"rank {trainer.global_rank} met the injected error")


def out_of_memory(trainer: Trainer, task: Task) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def files_up_to(n: int) -> Callable[[Trainer, Task], None]:
    """No file can have more than ``n`` bytes, as on a disk that is full; -1: any number."""

    def act(trainer: Trainer, task: Task) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return act


def spoil_weights(trainer: Trainer, task: Task) -> None:
    with torch.no_grad():
        next(p for p in task.learned.parameters() if p.requires_grad).view(-1)[0] = float("nan")


ACTS: dict[str, Callable[[Trainer, Task], None]] = {
    **{name: send(name) for name in ("sigterm", "sigint", "sighup", "sigusr1", "sigkill", "sigstop")},
    "raise": fail,
    "out_of_memory": out_of_memory,
    "nan_weights": spoil_weights,
    "full_disk": files_up_to(100_000),  # a checkpoint at toy size is larger, logs are not
    "free_disk": files_up_to(-1),
}


class Fault(Callback):
    """``does`` one of ``ACTS`` on rank ``rank`` (None: on all), ``times`` times in a row.

    ``when`` is ``step`` (after the optimizer step ``step``), ``batch`` (before the batch after it), ``validation``,
    ``saving`` (a checkpoint is about to be written), ``writing`` (some of it is on the disk), ``evaluation`` (sampling
    for metrics begins) or ``grid``. The last five count from the first of their kind at step ``step`` or later.
    """

    def __init__(self, does: str, when: str = "step", step: int = 1, rank: int | None = 0, times: int = 1):
        self.does, self.when, self.step, self.rank, self.times = does, when, step, rank, times
        self.done = False

    def _meet(self, when: str, trainer: Trainer, task: Task, exactly: bool = False) -> None:
        step = trainer.global_step
        due = step == self.step if exactly else step >= self.step
        if self.done or when != self.when or not due:
            return
        self.done = True
        if self.rank in (None, trainer.global_rank):
            print(f"injected {self.does} at step {step}", file=sys.stderr, flush=True)
            if "FAULT_TIME" in os.environ:
                Path(os.environ["FAULT_TIME"]).touch()
            for _ in range(self.times):
                ACTS[self.does](trainer, task)

    def setup(self, trainer: Trainer, task: Task, stage: str) -> None:
        """Evaluations are not among Lightning's events."""
        for other in trainer.callbacks:
            kinds = {MetricEvaluation: "evaluation", SampleGrid: "grid"}
            if any(isinstance(other, kind) and when == self.when for kind, when in kinds.items()):
                other.evaluate = self._before(other.evaluate, self.when)  # type: ignore[method-assign]
        if self.when == "writing":
            whole_file._Noting.write = self._after_writing(trainer, task)  # type: ignore[method-assign]

    def _after_writing(self, trainer: Trainer, task: Task) -> Callable[..., int | None]:
        def met(file: io.FileIO, data: Any) -> int | None:
            written = io.FileIO.write(file, data)
            self._meet("writing", trainer, task)
            return written

        return met

    def _before(self, evaluate: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def met(trainer: Trainer, task: Task) -> Any:
            self._meet(kind, trainer, task)
            return evaluate(trainer, task)

        return met

    def on_train_batch_start(self, trainer: Trainer, task: Task, batch: Any, batch_idx: int) -> None:
        self._meet("batch", trainer, task, exactly=True)

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._meet("step", trainer, task, exactly=True)

    def on_validation_batch_start(self, trainer: Trainer, task: Task, *_: Any) -> None:
        self._meet("validation", trainer, task)

    def on_save_checkpoint(self, trainer: Trainer, task: Task, checkpoint: dict[str, Any]) -> None:
        self._meet("saving", trainer, task)
