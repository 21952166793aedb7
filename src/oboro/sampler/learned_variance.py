"""Ancestral sampling with the variance that a network has learned."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from oboro.base.ranges import Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.node import Node
from oboro.sampler.posterior import posteriors
from oboro.sampler.sampler import UNIFORM, Grid, Noise, Sampler, denoise, same_time


class LearnedVariance(Sampler):
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

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        table = posteriors(grid)
        for i, (t, s) in enumerate(pairwise(grid)):
            step = table.at(torch.tensor([i]), x)
            if s.sigma == 0:
                x = step.mean(denoise(denoiser, x, t.t, cond), x)
            else:
                x0, v = denoiser.with_variance(x, same_time(x, t.t), cond)
                x = step.mean(x0, x) + torch.exp(step.log_variance(v) / 2) * noise(x)
        return x
