"""Training of a denoising autoencoder."""

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.condition import Condition
from oboro.data import DataModule
from oboro.task.generation import Generation


class DenoisingAutoencoder(Generation):
    """``denoiser`` trained by ``loss`` at one noise level, x ↦ D(alpha x + sigma eps): Vincent et al. 2008, the
    diffusion model of a single level. ``sampler.WalkBack`` draws samples of it."""

    def check(self, data: DataModule) -> None:
        """Raises ``UserError`` also for a loss of several noise levels."""
        if getattr(self.loss, "teaches_time", None) is None:
            raise UserError(
                f"a denoising autoencoder has one noise level and {type(self.loss).__name__} as set has more; choose "
                "loss=denoising_fixed, or task=diffusion."
            )
        super().check(data)

    def learn(self, x: Tensor, cond: Condition, generator: torch.Generator) -> Tensor:
        return self.loss(self.denoiser, x, cond, generator, self.global_step)
