"""Training of a denoiser."""

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.condition import Condition
from oboro.data import DataModule
from oboro.loss import Game
from oboro.task.generation import Generation


class Diffusion(Generation):
    """``denoiser`` trained by a loss of its own answers alone."""

    def check(self, data: DataModule) -> None:
        """Raises ``UserError`` also for a loss that trains several networks."""
        if isinstance(self.loss, Game):
            raise UserError(
                f"{type(self.loss).__name__} trains networks beside the model; add task={self.loss.task} to the "
                "command."
            )
        super().check(data)

    def learn(self, x: Tensor, cond: Condition, generator: torch.Generator) -> Tensor:
        loss = self.loss(self.denoiser, x, cond, generator, self.global_step)
        for name, value in getattr(self.loss, "watched", {}).items():
            self.log(f"train/{name}", value)
        return loss
