"""Truncated consistency: a second stage that learns the noisier half of the path, on top of a consistency model."""

import torch
from torch import Tensor, nn

from oboro.base.draws import rand, randn, randperm, replayed
from oboro.base.errors import UserError
from oboro.base.ranges import BelowOne, NonNegative, Positive
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss.consistency import WEIGHTS, Weight
from oboro.loss.coupling import Coupling
from oboro.loss.curriculum import Curriculum
from oboro.loss.path import noised, times_at
from oboro.loss.penalty import Penalty
from oboro.loss.time import TimeDistribution, time_at
from oboro.schedule import Schedule, expand_as
from oboro.teacher import Teacher


class TruncatedConsistency(nn.Module):
    """``Consistency`` at rho_t >= ``transition`` alone, rho = sigma / alpha; below it the target is the ``teacher``'s.

    Lee et al. 2024 (arXiv:2410.14895). The teacher is a consistency model, where the student starts from, and stays as
    it is, so that the student spends nothing on jumps from little noise. A share ``boundary`` of each batch lies at the
    transition, where r is below it, and its mean counts ``boundary_weight`` beside the mean of the others. p(t) is that
    of ``time`` above the transition; theirs is a log-Student-t distribution there.

    The student knows no less noise than ``transition``: the steps of ``sampler=ddim_consistency`` begin there or above,
    and others are refused (``least_noise``). Weights, masks and curricula are those of ``Consistency``. Raises
    ``UserError`` for a p(t) that learns or has nothing above the transition.
    """

    teaches_variance = False
    teaches_jumps = True
    needs_end = False
    learns_from_jumps = True
    evaluations = 3

    def __init__(
        self,
        time: TimeDistribution,
        curriculum: Curriculum,
        penalty: Penalty,
        coupling: Coupling,
        teacher: Teacher,
        weight: Weight = "gap",
        transition: Positive = 1.0,
        boundary: BelowOne = 0.25,
        boundary_weight: NonNegative = 0.1,
    ):
        super().__init__()
        if time.adapts:
            raise UserError(
                f"{type(time).__name__} learns of times that this loss leaves out; choose loss/time=log_normal."
            )
        self.time = time
        self.curriculum = curriculum
        self.penalty = penalty
        self.coupling = coupling
        self.teacher = teacher
        self.weight = weight
        self.transition = transition
        self.boundary = boundary
        self.boundary_weight = boundary_weight
        self._known: tuple[Schedule, float, float] | None = None

    @property
    def least_noise(self) -> float:
        """The least sigma / alpha at which the student is taught."""
        return self.transition

    def forward(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator, step: int = 0
    ) -> Tensor:
        """Objective (B,) of ``x`` (B, ...), for training; every draw is from ``generator``, on its own device."""
        u = rand(x.shape[:1], generator).to(x)
        eps = self.coupling(x, randn(x.shape, generator).to(x), cond)
        place, count = randperm(len(x), generator)
        share = round(self.boundary * count) / count
        low = (place.to(x.device) < share * count) if share else torch.zeros(len(x), dtype=torch.bool, device=x.device)
        loss = self._weighted(denoiser, x, cond, torch.where(low, 0.0, u), eps, step)
        return loss * torch.where(low, self.boundary_weight / max(share, 1 / count), 1 / max(1 - share, 1 / count))

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """The loss (B,) at the quantiles ``u`` (B,) of p(t) above the transition, without samples at it."""
        return self._weighted(denoiser, x, cond, u, eps, None)

    def _weighted(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor, step: int | None
    ) -> Tensor:
        schedule = denoiser.schedule
        at, first = self._start(schedule)
        above = time_at(first + (1 - first) * u, self.time, schedule)[1].clamp(min=at)
        t, r = (times_at(v, schedule) for v in self.curriculum(above, schedule, step))
        x_t, x_r = noised(x, eps, t), noised(x, eps, r)
        jump = denoiser.towards(1.0, 0.0)
        with replayed(x.device):
            online = jump(x_t, t.t, cond)
        with torch.no_grad():
            below = self.teacher.on(schedule, x_r).towards(1.0, 0.0)(x_r, r.t, cond)
            target = torch.where(expand_as(r.t < at, x), below, jump(x_r, r.t, cond))
            target = torch.where(expand_as(r.data, x), x_r, target)
        return WEIGHTS[self.weight](t, r) * self.penalty(online - target)

    def _start(self, schedule: Schedule) -> tuple[float, float]:
        """The time of the transition, and its quantile by bisection, for quantiles rise with u; of the latest schedule
        they are kept."""
        if self._known is None or self._known[0] is not schedule:
            level = torch.tensor([self.transition], dtype=torch.float64, device="cpu")
            at = schedule.t_from_log_snr(-2 * level.log()).item()
            low, high = 0.0, 1.0
            for _ in range(60):
                middle = (low + high) / 2
                u = torch.tensor([middle], dtype=torch.float64, device="cpu")
                low, high = (middle, high) if time_at(u, self.time, schedule)[1].item() < at else (low, middle)
            if not (0 < at < 1 and high < 1 - 1e-6):
                raise UserError(
                    f"no time of p(t) lies above sigma / alpha = {self.transition:g}; lower loss.transition, or choose "
                    "another loss/time."
                )
            self._known = schedule, at, high
        return self._known[1:]
