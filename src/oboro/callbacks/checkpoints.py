"""Weights on disk."""

import os
from pathlib import Path
from typing import Any

from lightning import Trainer

from oboro.base import distributed
from oboro.base.ranges import CountOrNone, NonNegative
from oboro.callbacks.evaluation import Evaluation, MetricEvaluation
from oboro.restore import frozen
from oboro.task import Task


class Checkpoints(Evaluation):
    """``folder/last.ckpt``, and ``folder/best.ckpt`` whenever the first of the metrics is the best so far.

    A frozen part of the task of ``separate_from`` megabytes or more is not written again and again: it lies once in
    ``folder/frozen``, and the checkpoints name its digest (``oboro.restore.frozen``). With ``self_contained`` every
    checkpoint holds all that it needs; so do those of runs without such parts.

    Lightning's ModelCheckpoint writes neither at the last step of a run that is counted in steps, nor in place: its
    temporary file lies in another folder, so that a kill can leave a half-written ``last.ckpt``. Here the new file
    takes the place of the old one in one rename. Must come after what measures, and after ``LatentStatistics``, in the
    list of callbacks.
    """

    def __init__(
        self, folder: str, every_n_steps: CountOrNone, separate_from: NonNegative = 100.0, self_contained: bool = False
    ):
        super().__init__(every_n_steps)
        self.folder = Path(folder)
        self.separate_from = separate_from
        self.self_contained = self_contained
        self.best: float = float("inf")
        self._digests: dict[str, tuple[tuple, str]] = {}

    def evaluate(self, trainer: Trainer, task: Task) -> None:
        objectives = [c.objective for c in trainer.callbacks if isinstance(c, MetricEvaluation)]
        value = next((objective[1] for objective in objectives if objective), self.best)
        if value < self.best:
            self.best = value
            self._save(trainer, "best.ckpt")
        self._save(trainer, "last.ckpt")

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
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
