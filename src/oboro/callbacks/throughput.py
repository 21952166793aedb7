"""How fast training is, and where its time goes."""

import time
from typing import Any

from lightning import Callback, Trainer

from oboro.base.ranges import Count
from oboro.callbacks.evaluation import Evaluation
from oboro.task import Task


class Throughput(Callback):
    """Images per second of training, and the shares of wall-clock time in data, step and evaluation.

    ``step`` is from the start to the end of a training batch; ``evaluation`` is validation and every ``Evaluation``
    callback; ``data`` is the rest: fetching a batch, moving it to the device, the loop itself. images/s leaves
    evaluation out. On accelerators work is queued, so ``data`` is what the host waited beside it.
    """

    def __init__(self, every_n_steps: Count = 50):
        self.every_n_steps = every_n_steps
        self._validation = 0.0
        self._step = 0.0
        self._mark = (0.0, 0.0, 0.0, 0)
        self._before = 0.0, 0  # seconds and steps of training until the run went back to a checkpoint
        self._first: tuple[float, float, float, int] | None = None

    def _now(self, trainer: Trainer) -> tuple[float, float, float, int]:
        evaluation = self._validation + sum(c.seconds for c in trainer.callbacks if isinstance(c, Evaluation))
        return time.perf_counter(), evaluation, self._step, trainer.global_step

    def on_train_start(self, trainer: Trainer, task: Task) -> None:
        if self._first is not None:
            self._before = self.total()
        self._mark = self._first = self._last = self._now(trainer)

    def total(self) -> tuple[float, int]:
        """Seconds of training without evaluation, and optimizer steps, from the start to the latest batch; with those
        that were taken again after the run went back to a checkpoint."""
        assert self._first is not None
        wall, evaluation, _, steps = (b - a for a, b in zip(self._first, self._last, strict=True))
        seconds, taken = self._before
        return max(seconds + wall - evaluation, 1e-9), taken + steps

    def on_train_end(self, trainer: Trainer, task: Task) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"training_seconds": self.total()[0]}, trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, task: Task, batch: Any, batch_idx: int) -> None:
        self._batch_start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._step += time.perf_counter() - self._batch_start
        self._last = now = self._now(trainer)
        self._batch_size = trainer.datamodule.batch_size
        wall, evaluation, step, steps = (b - a for a, b in zip(self._mark, now, strict=True))
        if steps < self.every_n_steps or wall <= 0:
            return
        self._mark = now
        speed = steps * self._batch_size / max(wall - evaluation, 1e-9)
        task.log("images/s", speed, prog_bar=True, logger=False)
        shares = {"data": wall - evaluation - step, "step": step, "evaluation": evaluation}
        values = {f"time/{k}": v / wall for k, v in shares.items()}
        for logger in trainer.loggers:
            logger.log_metrics({"images_per_second": speed, **values}, trainer.global_step)

    def on_validation_start(self, trainer: Trainer, task: Task) -> None:
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, task: Task) -> None:
        self._validation += time.perf_counter() - self._validation_start
