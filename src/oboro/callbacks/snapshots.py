"""Averages on disk, for averages of other widths after training."""

from pathlib import Path

from lightning import Trainer

from oboro.base import shards
from oboro.base.errors import UserError
from oboro.base.ranges import CountOrNone
from oboro.callbacks.evaluation import Evaluation, spared
from oboro.ema.posthoc import write_snapshot
from oboro.task import Task

SNAPSHOTS = 20  # with two profiles, enough for std from 0.02 to 0.26 (oboro.ema.posthoc.TOLERANCE)


class Snapshots(Evaluation):
    """``folder/<step>.safetensors`` with every power-function average of the task, for ``oboro.ema.posthoc``.

    ``every_n_steps = None`` writes ``SNAPSHOTS`` of them over the run. A run that is resumed has to be given the old
    folder: what the weights were before counts too. Raises ``UserError`` where the task has no power-function average.
    """

    def __init__(self, folder: str, every_n_steps: CountOrNone | None = None):
        super().__init__(every_n_steps or 0)
        self.folder = Path(folder)
        self.spread = every_n_steps is None

    def setup(self, trainer: Trainer, task: Task, stage: str) -> None:
        self.stds = {name: profile.std for name, profile in task.ema.profiles.items() if profile.std is not None}
        if not self.stds:
            raise UserError("snapshots are of power-function averages and there are none; choose ema=ema.")
        if self.spread:
            self.every_n_steps = max(1, trainer.max_steps // SNAPSHOTS)

    def evaluate(self, trainer: Trainer, task: Task) -> None:
        for profile in self.stds:
            task.check_averages(profile)
        state = shards.gathered(task.ema.state_dict(task.learned), keep=trainer.is_global_zero)
        if trainer.is_global_zero:
            path = self.folder / f"{trainer.global_step:08d}.safetensors"
            with spared(f"the snapshot {path}"):
                self.folder.mkdir(parents=True, exist_ok=True)
                write_snapshot(path, trainer.global_step, state["updates"], self.stds, state["averages"])
