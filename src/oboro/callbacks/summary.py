"""The table at the end of a run."""

import time
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from rich.console import Console
from rich.table import Table

from oboro.base.counted import counted
from oboro.callbacks.evaluation import MetricEvaluation
from oboro.callbacks.throughput import Throughput
from oboro.report.table import print_results
from oboro.task import Task
from oboro.task.memory import footprint


class Summary(Callback):
    """What was trained, how long it took, how good it is and where the files are; printed by rank 0.

    Must come last in the list of callbacks.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)
        self._start: float | None = None
        self._taken = 0  # steps, with those that were taken again

    def setup(self, trainer: Trainer, task: Task, stage: str) -> None:
        self._network = type(task.network).__name__  # before torch gives a sharded one a class of its own

    def on_train_start(self, trainer: Trainer, task: Task) -> None:
        if self._start is None:  # else the run has gone back to a checkpoint
            self._start, self._first = time.perf_counter(), trainer.global_step
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._taken += trainer.global_step - self._step
        self._step = trainer.global_step

    def on_train_end(self, trainer: Trainer, task: Task) -> None:
        if not trainer.is_global_zero:
            return
        assert self._start is not None
        Console().print(self._table(trainer, task, time.perf_counter() - self._start))
        for callback in trainer.callbacks:
            if isinstance(callback, MetricEvaluation) and callback.latest is not None:
                print_results([callback.latest], "measured")

    def _table(self, trainer: Trainer, task: Task, seconds: float) -> Table:
        data = trainer.datamodule
        size = footprint(task.learned)
        of = "" if size.trained == size.parameters else f", {size.trained:,} of them trained"
        table = Table(show_header=False, title="trained", title_justify="left")
        table.add_row(
            "model",
            f"{self._network}, {size.parameters / 1e6:.2f} M parameters{of}, {task.description}",
        )
        noun = data.modality.noun
        samples, steps = counted(len(data.train), f"training {noun}"), trainer.global_step - self._first
        several = f", {n} sizes in training" if (n := len(data.training_shapes)) > 1 else ""
        table.add_row("data", f"{type(data).__name__}, {samples} of {data.modality}{several}")
        drawn = counted(self._taken * data.batch_size, noun)
        again = f", {counted(self._taken - steps, 'steps')} more taken again" if self._taken > steps else ""
        table.add_row("training", f"{counted(steps, 'steps')} of {data.batch_size}{again}, {drawn}")
        whole = f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
        for callback in trainer.callbacks:
            if isinstance(callback, Throughput):
                training, taken = callback.total()
                whole += f", {training:.0f} s without evaluation, {taken * data.batch_size / training:.0f} {noun}/s"
        table.add_row("time", whole)
        for name in (f"val/{measure}" for measure in task.measures):
            if name in trainer.callback_metrics:
                table.add_row(name, f"{float(trainer.callback_metrics[name]):.4f}  (averaged weights)")
        for what in ("samples", "reconstructions", "checkpoints", "metrics.jsonl"):
            if (self.folder / what).exists():
                table.add_row(what, str(self.folder / what))
        return table
