"""Weights on disk."""

import os
from pathlib import Path
from typing import Any

from lightning import Trainer

from oboro.callbacks.evaluation import Evaluation, MetricEvaluation
from oboro.task import Task


class Checkpoints(Evaluation):
    """``folder/last.ckpt``, and ``folder/best.ckpt`` whenever the first of the metrics is the best so far.

    Lightning's ModelCheckpoint writes neither at the last step of a run that is counted in steps, nor in place: its
    temporary file lies in another folder, so that a kill can leave a half-written ``last.ckpt``. Here the new file
    takes the place of the old one in one rename. Must come after what measures, and after ``LatentStatistics``, in the
    list of callbacks.
    """

    def __init__(self, folder: str, every_n_steps: int):
        super().__init__(every_n_steps)
        self.folder = Path(folder)
        self.best: float = float("inf")

    def evaluate(self, trainer: Trainer, task: Task) -> None:
        objectives = [c.objective for c in trainer.callbacks if isinstance(c, MetricEvaluation)]
        found = next((objective[1] for objective in objectives if objective), self.best)
        if found < self.best:
            self.best = found
            self._save(trainer, "best.ckpt")
        self._save(trainer, "last.ckpt")

    def _save(self, trainer: Trainer, name: str) -> None:
        partial = self.folder / f"{name}.partial"
        trainer.save_checkpoint(partial, weights_only=False)  # all ranks take part
        if trainer.is_global_zero:
            os.replace(partial, self.folder / name)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
