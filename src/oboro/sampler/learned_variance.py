"""Ancestral sampling with the variance that a network has learned."""

import torch
from torch import Tensor

from oboro.base.ranges import Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises, same_time
from oboro.sampler.ancestral import Ancestral
from oboro.sampler.node import Node
from oboro.sampler.posterior import posteriors
from oboro.sampler.sampler import UNIFORM, Grid, denoise


class LearnedVariance(Ancestral):
    """x_s ~ N(c_x x̂0 + c_t x_t, sigma_theta²) with log sigma_theta² = v high + (1 - v) low of ``Posterior``.

    Nichol & Dhariwal 2021 (arXiv:2102.09672, eq. 15): DDPM's ancestral sampling for models trained with loss=hybrid,
    which needs far fewer steps than with a fixed variance (sec. 4). v = 0 is ``DDIM`` with eta = 1, of first order; the
    order here is that with the v of an exact denoiser. The range belongs to the steps that are taken, not to those of
    training. Into data x̂0 is returned, without noise.
    """

    order = 2

    def __init__(self, steps: Steps = 100, grid: Grid = UNIFORM):
        super().__init__(steps, grid)

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def asks_variance(self) -> bool:
        return True

    def gaussian(
        self, denoiser: Denoises, x: Tensor, t: Node, s: Node, cond: Condition
    ) -> tuple[Tensor, Tensor | float]:
        step = posteriors([t, s]).at(torch.zeros(1, dtype=torch.int64), x)
        if s.sigma == 0:
            return step.mean(denoise(denoiser, x, t.t, cond), x), 0.0
        x0, v = denoiser.with_variance(x, same_time(x, t.t), cond)
        return step.mean(x0, x), torch.exp(step.log_variance(v) / 2)
