"""Exact Gaussian students, teachers and fake scores for losses of distillation."""

import torch
from torch import nn

from oboro.condition import Condition
from oboro.denoiser.exact import GaussianDenoiser
from oboro.loss import DMD2, Denoising, SiD, coupling, penalty, time, weighting
from oboro.parameterization import Velocity
from oboro.schedule import Linear

SCHEDULE = Linear()
NOTHING = Condition()


class Exact(GaussianDenoiser):
    """The exact denoiser in the place of a trained one."""

    def __init__(self, mean, std):
        super().__init__(mean, std, SCHEDULE)
        self.parameterization, self.network = Velocity(), nn.Identity()


class Fitted(Exact):
    """One whose mean and std are learned."""

    def __init__(self, mean, std):
        super().__init__(0.0, 1.0)
        self.mean, self.std = (nn.Parameter(torch.as_tensor(v, dtype=torch.float64)) for v in (mean, std))


class Teaches:
    """In the place of ``Teacher``, whose denoiser is that of a checkpoint."""

    teaches_jumps = False

    def __init__(self, denoiser):
        self.denoiser = denoiser

    def on(self, schedule, like):
        return self.denoiser


class Affine(nn.Module):
    """A student of one step: mean + std z for x_1 = sigma_1 z."""

    schedule = SCHEDULE

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = (nn.Parameter(torch.as_tensor(v, dtype=torch.float64)) for v in (mean, std))

    def forward(self, x_t, t, cond):
        return self.mean + self.std * x_t

    def towards(self, alpha, sigma):
        return self


def denoising(**settings) -> Denoising:
    return Denoising(time.Uniform(), weighting.Uniform(), penalty.Squared(), coupling.Independent(), **settings)


def matching(kind: type[DMD2] | type[SiD], real, fake, p_t=None, **settings):
    """A loss without a discriminator."""
    p_t = p_t or time.Uniform(0.02, 0.98)
    return kind(Teaches(real), fake, p_t, denoising(), adversarial=0.0, **settings)
