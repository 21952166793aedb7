"""All ranks of a run start at one step."""

import torch.distributed as dist
from lightning import Callback, Trainer

from oboro.base import distributed
from oboro.base.errors import UserError
from oboro.restore.checkpoint import load_checkpoint
from oboro.task import Task


class SameStart(Callback):
    """Raises ``UserError`` on every rank where they would go on from different steps: each reads the checkpoint
    ``resume`` by itself, None for a new run, and hosts may see other files under one name."""

    def __init__(self, resume: str | None):
        self.resume = resume

    def setup(self, trainer: Trainer, task: Task, stage: str) -> None:
        if distributed.world_size() == 1:
            return
        steps: list[int] = [0] * distributed.world_size()
        dist.all_gather_object(steps, load_checkpoint(self.resume)["global_step"] if self.resume else 0)
        if other := next((rank for rank, step in enumerate(steps) if step != steps[0]), None):
            raise UserError(
                f"rank 0 would start at step {steps[0]} and rank {other} at step {steps[other]}; let the run's folder "
                "lie on a file system that all hosts share"
            )
