"""Consistency losses: the denoiser answers alike at two times of one path, so that it jumps to the path's end."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from oboro.base.draws import rand, randn, replayed
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss.coupling import Coupling
from oboro.loss.curriculum import Curriculum
from oboro.loss.path import Solver, Times, noised, ode_step, times_at
from oboro.loss.penalty import Penalty
from oboro.loss.time import TimeDistribution, time_at
from oboro.schedule import Schedule, expand_as
from oboro.teacher import Teacher

Weight = Literal["gap", "angle", "one"]


def inverse_gap(t: Times, r: Times) -> Tensor:
    """1 / (rho_t - rho_r) with rho = sigma / alpha: iCT (arXiv:2310.14189, eq. 7) and ECT (arXiv:2406.14548). 0 where
    no signal is left at t."""
    return t.alpha * r.alpha / (t.sigma * r.alpha - r.sigma * t.alpha)


def inverse_angle(t: Times, r: Times) -> Tensor:
    """1 / (angle_t - angle_r) with angle = 2/pi arctan(sigma / alpha), finite at all noise levels."""
    angles = [torch.atan2(at.sigma, at.alpha) * (2 / torch.pi) for at in (t, r)]
    return 1 / (angles[0] - angles[1])


WEIGHTS: dict[str, Callable[[Times, Times], Tensor]] = {
    "gap": inverse_gap,
    "angle": inverse_angle,
    "one": lambda t, r: torch.ones_like(t.t),
}


class Consistency(nn.Module):
    """w(t, r) penalty(D(x_t, t, cond) - sg D(x_r, r, cond)), r < t from ``curriculum``, t ~ p(t).

    Both are points of one path: with a ``teacher`` x_r is where its flow leads from x_t in one step of ``solver``
    (consistency distillation), without one x_r = alpha_r x + sigma_r eps of the same x and eps (consistency training):
    Song et al. 2023 (arXiv:2303.01469, eq. 7 and 10). Where r is exact data D(x_r, r) is x_r, so no parameterization
    needs a boundary of its own: D(x_t, t) → x_t for t → 0 is enough, which eps, v, velocity and EDM have. The target
    has the weights of the moment, as Song & Dhariwal 2023 (arXiv:2310.14189, sec. 3.2) find best, and the dropout masks
    of the other side.

    ``weight``: 1 / (rho_t - rho_r) for gap, with rho = sigma / alpha; 1 / (angle_t - angle_r) for angle; 1 for one.
    Parameters and buffers are those of ``time``.
    """

    teaches_variance = False
    teaches_jumps = True
    needs_end = False

    def __init__(
        self,
        time: TimeDistribution,
        curriculum: Curriculum,
        penalty: Penalty,
        coupling: Coupling,
        weight: Weight = "gap",
        teacher: Teacher | None = None,
        solver: Solver = "heun",
    ):
        super().__init__()
        self.time = time
        self.curriculum = curriculum
        self.penalty = penalty
        self.coupling = coupling
        self.weight = weight
        self.teacher = teacher
        self.solver = solver

    @property
    def evaluations(self) -> int:
        return 2 + (0 if self.teacher is None else {"ddim": 1, "heun": 2}[self.solver] * self.teacher.evaluations)

    def forward(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator, step: int = 0
    ) -> Tensor:
        """Objective (B,) of ``x`` (B, ...), for training; every draw is from ``generator``, on its own device."""
        u = self.time.draw(rand(x.shape[:1], generator).to(x))
        eps = self.coupling(x, randn(x.shape, generator).to(x), cond)
        loss = self._weighted(denoiser, x, cond, u, eps, step)
        corrected = self.time.correct(u, loss)
        self.time.record(u, loss.detach())
        return corrected

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """The loss (B,) at the quantiles ``u`` (B,) of p(t) and the noise ``eps`` (B, ...), with the pairs of the end
        of the curriculum: for validation a fixed functional of the denoiser."""
        return self._weighted(denoiser, x, cond, u, eps, None)

    def _weighted(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor, step: int | None
    ) -> Tensor:
        """w penalty(D(x_t, t) - sg D(x_r, r))."""
        schedule = denoiser.schedule
        t, r = (times_at(v, schedule) for v in self.curriculum(time_at(u, self.time, schedule)[1], schedule, step))
        x_t = noised(x, eps, t)
        x_r = noised(x, eps, r) if self.teacher is None else self._followed(x_t, t, r, cond, schedule)
        jump = denoiser.towards(1.0, 0.0)
        with replayed(x.device):
            online = jump(x_t, t.t, cond)
        with torch.no_grad():
            target = torch.where(expand_as(r.data, x), x_r, jump(x_r, r.t, cond))
        return WEIGHTS[self.weight](t, r) * self.penalty(online - target)

    @torch.no_grad()
    def _followed(self, x_t: Tensor, t: Times, r: Times, cond: Condition, schedule: Schedule) -> Tensor:
        """x_r by the teacher's flow."""
        assert self.teacher is not None
        return ode_step(self.teacher.on(schedule, x_t), x_t, t, r, cond, self.solver)
