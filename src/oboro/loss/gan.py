"""A generator against a discriminator: the non-saturating game with a penalty on the discriminator's slope at data."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.constant import constant
from oboro.base.errors import UserError
from oboro.base.ranges import Count, NonNegative
from oboro.codec import Codec
from oboro.condition import Condition
from oboro.data import DataModule
from oboro.denoiser import Denoiser
from oboro.loss.discriminator import DCGAN
from oboro.loss.game import Game, Weighted
from oboro.modality.modality import sizes


class GAN(Game):
    """The generator G lowers softplus(-D(G(z))), its opponent D

        softplus(-D(x)) + softplus(D(G(z))) + r1 / 2 |grad_x D(x)|²,

    D(x) the logit that x is data: Goodfellow et al. 2014 (arXiv:1406.2661, algorithm 1, with the generator's loss of
    sec. 3) and the penalty R1 of Mescheder et al. 2018 (arXiv:1801.04406, eq. 9), with which training converges near
    the equilibrium. Both see the same samples, which are made of noise in one step.

    Validation tells D's loss, without R1, at held-out data and samples of the noise eps: 2 log 2 where D can tell
    nothing. It says no more of samples than that; Fréchet distances do.
    """

    task = "gan"
    teaches_steps = 1

    def __init__(self, discriminator: DCGAN, r1: NonNegative = 1.0, every: Count = 1):
        super().__init__(every, "samples")
        self.discriminator = discriminator
        self.r1 = r1

    @property
    def opponents(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"discriminator": (self.discriminator,)}

    def check(self, data: DataModule, codec: Codec) -> None:
        if len(data.training_shapes) > 1:
            raise UserError("a discriminator learns from samples of one size; set data.buckets=0.")
        shape = codec.latent_shape(data.modality.shape)
        if shape != self.discriminator.shape:
            raise UserError(
                f"the discriminator is for samples of {sizes(self.discriminator.shape)} and these are {sizes(shape)}; "
                "leave loss.discriminator.size out and choose codec=identity, or set it to that of the latents."
            )

    @property
    def costs(self) -> tuple[int, int]:
        return 2, 1

    def of_learned(self, x: Tensor, made: Tensor, cond: Condition, generator: torch.Generator) -> Weighted:
        return {"generator": (1.0, F.softplus(-constant(self.discriminator)(made, cond.signals)))}

    def of_opponents(self, x: Tensor, made: Tensor, cond: Condition, generator: torch.Generator) -> Weighted:
        x = x.detach().requires_grad_(self.r1 > 0)
        real = self.discriminator(x, cond.signals)
        terms = {"discriminator": (1.0, F.softplus(-real) + F.softplus(self.discriminator(made, cond.signals)))}
        if self.r1 > 0:
            (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
            terms["r1"] = self.r1 / 2, slope.square().flatten(1).sum(1)
        return terms

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        made = denoiser(denoiser.schedule.prior(eps), torch.ones_like(u), cond)
        real, false = (self.discriminator(image, cond.signals) for image in (x, made))
        return F.softplus(-real) + F.softplus(false)
