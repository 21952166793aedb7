"""When evaluation happens: every so many steps and at the last one."""

import time
from abc import ABC, abstractmethod
from typing import Any

from lightning import Callback, Trainer

from oboro.errors import UserError
from oboro.task import Task


class Evaluation(Callback, ABC):
    """Calls ``evaluate`` after steps ``every_n_steps``, 2 ``every_n_steps``, … and after the last one, on all ranks.

    ``every_n_steps = 0`` leaves only the last one. ``seconds`` is the time spent, so that throughput can exclude it.
    """

    def __init__(self, every_n_steps: int):
        self.every_n_steps = every_n_steps
        self.seconds = 0.0
        self._evaluated_at = -1

    @abstractmethod
    def evaluate(self, trainer: Trainer, task: Task) -> None:
        """What is done."""

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        due = step == trainer.max_steps or (self.every_n_steps > 0 and step > 0 and step % self.every_n_steps == 0)
        if due and step != self._evaluated_at:  # with gradient accumulation a step has several batches
            self._evaluated_at = step
            start = time.perf_counter()
            self.evaluate(trainer, task)
            self.seconds += time.perf_counter() - start


class SampleEvaluation(Evaluation, ABC):
    """An evaluation of generated images. Raises ``UserError`` before training where the task generates none."""

    def setup(self, trainer: Trainer, task: Task, stage: str) -> None:
        if not task.draws:
            raise UserError(
                f"{type(self).__name__} looks at samples and {type(task).__name__} draws none; leave it out of "
                "callbacks=[...]."
            )
