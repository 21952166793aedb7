"""How much of a disk the checkpoints of a run will take, before they are written."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lightning import Trainer
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.remark import remark
from oboro.restore import frozen, sharded
from oboro.restore.finite import numbers
from oboro.task import Task

MOMENTS = 2  # values for each weight in the state of most optimizers, which have none before the first step
GB = 1e9


@dataclass(frozen=True)
class Room:
    """Bytes of one checkpoint, and of the frozen parts that lie once beside all of them."""

    file: int
    beside: int

    @classmethod
    def of(cls, trainer: Trainer, task: Task, separate_from: float) -> "Room":
        """Frozen parts of ``separate_from`` megabytes and more lie beside."""
        weights = task.state_dict()
        parts = [size(frozen.part_of(weights, place).values()) for place in task.frozen]
        beside = sum(part for part in parts if part >= separate_from * 1e6)
        averages = [w for average in task.averages.values() for ws in average.averages.values() for w in ws]
        states = [w for o in trainer.optimizers for _, w in numbers(dict(enumerate(o.state.values())), ())]
        trained = [p for learner in task.learners.values() for p in learner.parameters]
        optimizer = size(states) or MOMENTS * size(trained)
        return cls(size(weights.values()) - beside + size(averages) + optimizer, beside)

    def check(self, folder: Path, files: int, free: int | None = None) -> None:
        """Say so where ``files`` checkpoints and the one that is being written do not fit into ``folder``, with those
        there replaced. Raises ``UserError`` where not even one does. ``free`` bytes are what the disk has left."""
        free = shutil.disk_usage(folder).free if free is None else free
        there = [*folder.glob("*.ckpt"), *folder.glob(f"{sharded.FOLDER}/*/*.safetensors")]
        present = {path.stat().st_ino: path.stat().st_size for path in there}
        beside = 0 if any((folder / frozen.FOLDER).glob("*.safetensors")) else self.beside
        if self.file + beside > free:
            raise UserError(
                f"a checkpoint takes about {(self.file + beside) / GB:.3g} GB and {folder} has {free / GB:.3g} GB "
                "left; make room, or give the run another folder with hydra.run.dir=<folder>."
            )
        needed = (files + 1) * self.file + beside
        if needed > free + sum(present.values()):
            remark(
                f"{files} checkpoints, and one more while it is written, take about {needed / GB:.3g} GB and {folder} "
                f"has {free / GB:.3g} GB left; make room, or lower callbacks.checkpoints.keep_last."
            )


def size(tensors: Iterable[Tensor]) -> int:
    return sum(w.nbytes for w in tensors)
