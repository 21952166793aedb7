"""Shortcut models: one jump is to be two jumps of half the length."""

from math import log2
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor, nn

from oboro.base.draws import rand, randn, replayed
from oboro.base.errors import UserError
from oboro.base.ranges import Positive, Share
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss.coupling import Coupling
from oboro.loss.penalty import Penalty
from oboro.loss.straight import Straight, quantiles, straight_path
from oboro.loss.time import TimeDistribution
from oboro.schedule import expand_as
from oboro.teacher import Teacher

Smallest = Annotated[int, Interval(ge=2, le=65_536)]


class Shortcut(nn.Module):
    """penalty(u(z_t, t - d, t) - sg (u(z_t, t - d/2, t) + u(z', t - d, t - d/2)) / 2) for a ``share`` of samples, and
    penalty(u(z_t, t, t) - v) for the others; z' = z_t - d/2 u(z_t, t - d/2, t).

    Frans et al. 2024 (arXiv:2410.12557, eq. 3 to 5 and algorithm 1), with u the mean velocity on straight paths
    (``Straight``), on any schedule. d is 1, 1/2, …, 2 / ``steps``, as often each, and t a multiple of it; halves are
    not shorter than 1 / ``steps``. Targets are held within ``clip``, as in the authors' code.

    Differs from theirs: flow matching is at d = 0 and at all times of p(t), not at the multiples of the shortest step,
    and targets have the weights of the moment in place of their average. Raises ``UserError`` for ``steps`` that are no
    power of two, and for a p(t) that follows the losses.
    """

    teaches_variance = False
    teaches_jumps = False  # it knows means as well
    needs_end = True
    teacher: Teacher | None = None

    def __init__(
        self,
        time: TimeDistribution,
        penalty: Penalty,
        coupling: Coupling,
        share: Share = 0.125,
        steps: Smallest = 128,
        clip: Positive | None = 4.0,
    ):
        super().__init__()
        if steps & (steps - 1):
            raise UserError(f"Shortcut halves jumps, and loss.steps={steps} is no power of two; set it to 128.")
        if time.adapts:
            raise UserError("Shortcut has two kinds of samples, and its p(t) follows no losses; set loss/time=uniform.")
        self.time = time
        self.penalty = penalty
        self.coupling = coupling
        self.share = share
        self.steps = steps
        self.clip = clip

    @property
    def evaluations(self) -> int:
        """Of every sample the target of a jump is computed."""
        return 3

    def forward(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator, step: int = 0
    ) -> Tensor:
        """Objective (B,) of ``x`` (B, ...), for training; every draw is from ``generator``, on its own device."""
        u = [rand(x.shape[:1], generator).to(x) for _ in range(3)]
        eps = self.coupling(x, randn(x.shape, generator).to(x), cond)
        return self._loss(denoiser, x, cond, u, eps)

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """The loss (B,) at the quantiles ``u`` (B,) of p(t) and the noise ``eps`` (B, ...); jumps follow from u."""
        return self._loss(denoiser, x, cond, quantiles(u, 3), eps)

    def jumps(self, u: list[Tensor]) -> tuple[Tensor, Tensor]:
        """t and d (B,): multiples of d, from two uniform numbers for each sample."""
        levels = int(log2(self.steps))
        count = 2.0 ** (u[1] * levels).floor().clamp(max=levels - 1)  # jumps of this length from noise to data
        return ((u[0] * count).floor() + 1).clamp(max=count) / count, 1 / count

    def _loss(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: list[Tensor], eps: Tensor) -> Tensor:
        straight = Straight(denoiser)
        jumps = u[2] < self.share
        start, d = self.jumps(u)
        t = torch.where(jumps, straight.within(start), straight.within(straight.times(u[0], self.time)))
        r = torch.where(jumps, (start - d).clamp(min=0), t)
        z = straight_path(x, eps, t)
        with replayed(x.device):
            mean = straight.u(z, t, r, cond)
        target = torch.where(expand_as(jumps, x), self._twice(straight, z, t, r, cond), eps - x)
        return self.penalty(mean - target)

    @torch.no_grad()
    def _twice(self, straight: Straight, z: Tensor, t: Tensor, r: Tensor, cond: Condition) -> Tensor:
        """The mean velocity of two jumps, each half of the way from t to r."""
        middle = (t + r) / 2
        with replayed(z.device):
            first = straight.u(z, t, middle, cond)
        with replayed(z.device):
            second = straight.u(z - expand_as(t - middle, z) * first, middle, r, cond)
        both = (first + second) / 2
        return both if self.clip is None else both.clamp(-self.clip, self.clip)
