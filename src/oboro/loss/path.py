"""Points of one path from data to noise, each sample of a batch at a time of its own, and steps along a flow."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.loss.time import T_MIN, Level
from oboro.schedule import Schedule, expand_as

Solver = Literal["heun", "ddim"]


class Times(NamedTuple):
    """Noise levels of a batch, each (B,); those of exact data are alpha = 1 and sigma = 0."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @property
    def data(self) -> Tensor:
        """Whether a sample has no noise (B,), bool."""
        return self.sigma == 0


def times_at(t: Tensor, schedule: Schedule) -> Times:
    """The noise levels at ``t`` (B,), 0 for exact data, also on schedules with sigma_0 > 0."""
    data = t <= 0
    t = t.clamp(min=T_MIN)
    alpha, sigma = schedule(t)
    return Times(t, torch.where(data, 1.0, alpha), torch.where(data, 0.0, sigma))


def noised(x: Tensor, eps: Tensor, at: Times | Level) -> Tensor:
    """alpha x + sigma eps, (B, ...)."""
    return expand_as(at.alpha, x) * x + expand_as(at.sigma, x) * eps


def ode_step(denoiser: Denoises, x_t: Tensor, t: Times, r: Times, cond: Condition, solver: Solver) -> Tensor:
    """x_r of the flow of ``denoiser`` from ``x_t`` (B, ...), by one step for each sample of its own length.

    ``ddim`` is the step of ``oboro.sampler.DDIM``, ``heun`` that of ``oboro.sampler.Heun``: a step into data, or out of
    noise without signal, is DDIM's.
    """
    (a, sigma_t), (b, sigma_r) = ([expand_as(c, x_t) for c in (at.alpha, at.sigma)] for at in (t, r))
    x0 = denoiser(x_t, t.t, cond)
    ratio = sigma_r / sigma_t
    x_r = (b - a * ratio) * x0 + ratio * x_t
    if solver == "ddim":
        return x_r
    eps, at_r = (x_t - a * x0) / sigma_t, denoiser(x_r, r.t, cond)
    single = (sigma_r == 0) | (a == 0)
    eps_r = (x_r - b * at_r) / torch.where(single, 1.0, sigma_r)
    change = (sigma_r - sigma_t * b / torch.where(single, 1.0, a)) / 2 * (eps_r - eps)
    return torch.where(single, x_r, x_r + change)
