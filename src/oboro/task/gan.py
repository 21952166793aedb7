"""Training of a generator against a discriminator."""

from collections.abc import Mapping

import oboro.loss
from oboro.base.draws import Noise
from oboro.base.ranges import Seed
from oboro.codec import Codec
from oboro.conditioner import Conditioner
from oboro.denoiser import Denoiser
from oboro.divergence import Divergence
from oboro.ema import EMA
from oboro.guidance import Guidance
from oboro.optimizer import Optimizer
from oboro.sampler import Sampler
from oboro.task.game import Game


class GAN(Game):
    """``denoiser``, the generator G(z) = D(x_1, 1) that draws in one step, trained by ``loss`` against its
    discriminator, which has an optimizer with the settings ``discriminator_optimizer``; None stands for those of
    ``optimizer``.
    """

    loss: oboro.loss.GAN
    player = "generator"

    def __init__(
        self,
        denoiser: Denoiser,
        codec: Codec,
        conditioner: Conditioner,
        loss: oboro.loss.GAN,
        guidance: Guidance,
        sampler: Sampler,
        ema: EMA,
        optimizer: Optimizer,
        discriminator_optimizer: Optimizer | None = None,
        seed: Seed = 0,
        compile: bool = False,
        noise: Noise = "per_rank",
        divergence: Divergence | None = None,
    ):
        parts = (denoiser, codec, conditioner, loss, guidance, sampler)
        super().__init__(*parts, ema, optimizer, None, seed, compile, noise, divergence)
        self._discriminator_optimizer = discriminator_optimizer

    @property
    def optimizers_of(self) -> Mapping[str, Optimizer | None]:
        return {"discriminator": self._discriminator_optimizer}
