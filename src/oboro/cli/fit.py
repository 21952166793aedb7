"""Training until it ends, with the ways back to a checkpoint that it may take before."""

from lightning import Trainer

from oboro.data import DataModule
from oboro.divergence import GoBack
from oboro.logger import rewind
from oboro.task import Task


def fit(trainer: Trainer, task: Task, data: DataModule, checkpoint: str | None) -> None:
    """Train from ``checkpoint``, or from the start. A step that diverges may go back to a later one, in this process,
    with all that a resumed run restores."""
    while True:
        try:
            trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
            return
        except GoBack as back:
            checkpoint = str(back.checkpoint)
            rewind(trainer.loggers, back.step)
