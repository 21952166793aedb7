"""Reflow: straight paths between noise and what a teacher makes of it."""

import torch
from torch import Tensor, nn

from oboro.base.draws import rand, randn
from oboro.base.errors import UserError
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss.coupling import Coupling
from oboro.loss.denoising import Denoising
from oboro.loss.penalty import Penalty
from oboro.loss.time import TimeDistribution
from oboro.loss.weighting import Weight
from oboro.sampler import Sampler
from oboro.schedule import Linear
from oboro.teacher import Teacher


class OfTeacher(Coupling):
    """The noise of which the teacher made x: paths no longer cross, and x̂0 is no posterior mean of the data."""

    independent = False

    def __call__(self, x: Tensor, eps: Tensor, cond: Condition) -> Tensor:
        return eps


class Reflow(nn.Module):
    """``Denoising`` on pairs (eps, x̂), x̂ what ``sampler`` makes of the teacher from eps: Liu et al. 2022
    (arXiv:2209.03003, algorithm 1). p(t) = u_shaped is that of Lee et al. 2024 (arXiv:2405.20320), whose penalty is
    ``loss/penalty=pseudo_huber``.

    Every sample of training takes a walk of the sampler, so a step costs as many more evaluations without gradient; of
    the data the labels alone are used. Where the paths have become straight, one step of ``sampler=euler`` on the
    ``linear`` schedule is nearly as good as many. Raises ``UserError`` for a sampler that draws noise, or a p(t) that
    adapts.
    """

    teaches_variance = False
    teaches_jumps = False
    needs_end = False

    def __init__(self, time: TimeDistribution, weighting: Weight, penalty: Penalty, teacher: Teacher, sampler: Sampler):
        super().__init__()
        if sampler.stochastic:
            raise UserError(
                f"{type(sampler).__name__} as set draws noise, so what it makes is no function of eps; choose "
                "sampler@loss.sampler=heun."
            )
        if time.adapts or weighting.adapts:
            raise UserError("pairs of a teacher are learned with fixed times and weights; choose loss/time=u_shaped.")
        self.pairs = Denoising(time, weighting, penalty, OfTeacher())
        self.teacher = teacher
        self.sampler = sampler

    @property
    def evaluations(self) -> int:
        return 1 + self.sampler.evaluations(Linear()) * self.teacher.evaluations

    @property
    def coupling(self) -> Coupling:
        return self.pairs.coupling

    def forward(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator, step: int = 0
    ) -> Tensor:
        """Objective (B,) for samples like ``x`` (B, ...); every draw is from ``generator``, on its own device."""
        u = rand(x.shape[:1], generator).to(x)
        return self.at_quantile(denoiser, x, cond, u, randn(x.shape, generator).to(x))

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """The loss (B,) at the quantiles ``u`` (B,) of p(t) on the pairs of the noise ``eps`` (B, ...)."""
        return self.pairs.at_quantile(denoiser, self.made_of(eps, cond), cond, u, eps)

    @torch.no_grad()
    def made_of(self, eps: Tensor, cond: Condition) -> Tensor:
        """x̂ (B, ...) on the teacher's own schedule."""
        schedule = self.teacher.denoiser.schedule
        return self.sampler(self.teacher.on(schedule, eps), schedule.prior(eps), cond, None)
