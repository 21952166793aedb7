"""Weights on disk."""

import os
import time
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from oboro.base import distributed
from oboro.base.ranges import CountOrNone, NonNegative
from oboro.callbacks.evaluation import Evaluation, MetricEvaluation
from oboro.restore import frozen
from oboro.task import Task


class Checkpoints(Evaluation):
    """``folder/last.ckpt`` every so many steps, and ``folder/best.ckpt`` whenever the first of the metrics is the best
    so far: at the step and with the weights that are measured, however often ``last.ckpt`` is written.

    A frozen part of the task of ``separate_from`` megabytes or more is not written again and again: it lies once in
    ``folder/frozen``, and the checkpoints name its digest (``oboro.restore.frozen``). With ``self_contained`` every
    checkpoint holds all that it needs; so do those of runs without such parts.

    Lightning's ModelCheckpoint writes neither at the last step of a run that is counted in steps, nor in place: its
    temporary file lies in another folder, so that a kill can leave a half-written ``last.ckpt``. Here the new file
    takes the place of the old one in one rename. Must come after ``LatentStatistics``, and after what measures, in the
    list of callbacks (``in_order``).
    """

    def __init__(
        self, folder: str, every_n_steps: CountOrNone, separate_from: NonNegative = 100.0, self_contained: bool = False
    ):
        super().__init__(every_n_steps)
        self.folder = Path(folder)
        self.separate_from = separate_from
        self.self_contained = self_contained
        self.best: float = float("inf")
        self.measure: str | None = None  # what ``best`` is a value of
        self._compared_at = -1
        self._digests: dict[str, tuple[tuple, str]] = {}

    def on_train_start(self, trainer: Trainer, task: Task) -> None:
        """The first checkpoint is that of the start where a run may have to go back to it."""
        super().on_train_start(trainer, task)
        self._compared_at = -1  # a run that has gone back comes by its steps again
        if task.guard.divergence.goes_back and task.last_checkpoint is None:
            self.evaluate(trainer, task)

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.keep_best(trainer)
        super().on_train_batch_end(trainer, task, outputs, batch, batch_idx)

    def on_train_end(self, trainer: Trainer, task: Task) -> None:
        self.keep_best(trainer)
        super().on_train_end(trainer, task)

    def keep_best(self, trainer: Trainer) -> None:
        """Compare what was measured at this step, once."""
        start, step = time.perf_counter(), trainer.global_step
        measures = [c for c in trainer.callbacks if isinstance(c, MetricEvaluation) and c.measured_at == step]
        objective = next((c.objective for c in measures if c.objective), None)
        if objective is None or step == self._compared_at:
            return
        self._compared_at = step
        name, value = objective
        if self.measure not in (None, name):  # values of another metric are no rivals
            self.best = float("inf")
        self.measure = name
        if isfinite(value) and value < self.best:
            self.best = value
            self._save(trainer, "best.ckpt")
        self.seconds += time.perf_counter() - start

    def evaluate(self, trainer: Trainer, task: Task) -> None:
        self._save(trainer, "last.ckpt")
        task.last_checkpoint = self.folder / "last.ckpt", trainer.global_step

    def _save(self, trainer: Trainer, name: str) -> None:
        partial = self.folder / f"{name}.partial"
        trainer.save_checkpoint(partial, weights_only=False)  # all ranks take part
        if trainer.is_global_zero:
            os.replace(partial, self.folder / name)

    def on_save_checkpoint(self, trainer: Trainer, task: Task, checkpoint: dict[str, Any]) -> None:
        """Take the large frozen parts out of ``checkpoint``, after they were written."""
        if self.self_contained:
            return
        with distributed.together():
            for place in task.frozen:
                part = frozen.part_of(checkpoint["state_dict"], place)
                large = sum(w.nbytes for w in part.values()) >= self.separate_from * 1e6
                if part and large and trainer.is_global_zero:
                    digest = self._digest(place, part)
                    frozen.write(part, digest, self.folder)
                    checkpoint.setdefault("frozen", {})[place] = digest
                    for name in part:
                        del checkpoint["state_dict"][f"{place}.{name}"]

    def _digest(self, place: str, part: frozen.State) -> str:
        """Computed anew only where a tensor was replaced or written to since the last time."""
        versions = tuple((w.data_ptr(), w._version) for w in part.values())
        if self._digests.get(place, (None,))[0] != versions:
            self._digests[place] = (versions, frozen.digest(part))
        return self._digests[place][1]

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "measure": self.measure}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.measure = state["best"], state.get("measure")


def in_order(callbacks: Sequence[Callback]) -> list[Callback]:
    """``callbacks`` with those that write checkpoints behind the last one that measures: a best checkpoint holds the
    weights of the step at which it is written."""
    measures = [i for i, callback in enumerate(callbacks) if isinstance(callback, MetricEvaluation)]
    end = measures[-1] + 1 if measures else 0
    early = [callback for callback in callbacks[:end] if isinstance(callback, Checkpoints)]
    return [*(callback for callback in callbacks[:end] if callback not in early), *early, *callbacks[end:]]
