"""Progressive distillation: one step of the student for several of the teacher."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from oboro.base.draws import rand, randn
from oboro.base.ranges import Steps
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss.coupling import Coupling
from oboro.loss.path import Solver, Times, noised, ode_step, times_at
from oboro.loss.penalty import Penalty
from oboro.schedule import Schedule, expand_as
from oboro.teacher import Teacher


class Progressive(nn.Module):
    """max(SNR, 1) penalty(D(x_t, t, cond) - x̃), t uniform on the grid i / ``steps``: Salimans & Ho 2022
    (arXiv:2202.00512, algorithm 2, and the truncated SNR of eq. 9).

    From x_t = alpha x + sigma eps the teacher takes ``teacher_steps`` steps of ``solver``, two of DDIM in the paper, to
    s = t - 1 / ``steps``. x̃ is the x̂0 that takes the student there in one (``oboro.denoiser.Denoises.towards``):

        x̃ = (x_s - rho x_t) / (alpha_s - rho alpha_t), rho = sigma_s / sigma_t

    The last step ends in exact data. The student is drawn with ``sampler=ddim sampler.steps=<steps>`` on the uniform
    grid; half as many steps are another run, with this one's checkpoint as ``init``. Their weight is on x̂0, as here.
    A teacher that is such a student has learned steps of its own length and no shorter ones: it takes two, and jumps
    as DDIM does. ``solver`` = heun is for a denoiser, with two evaluations for each of its steps.
    """

    teaches_variance = False
    teaches_jumps = False
    needs_end = False

    def __init__(
        self,
        penalty: Penalty,
        coupling: Coupling,
        teacher: Teacher,
        steps: Steps = 8,
        teacher_steps: Steps = 2,
        solver: Solver = "ddim",
    ):
        super().__init__()
        self.penalty = penalty
        self.coupling = coupling
        self.teacher = teacher
        self.steps = steps
        self.teacher_steps = teacher_steps
        self.solver = solver

    @property
    def evaluations(self) -> int:
        each = 1 if self.solver == "ddim" else 2
        return 1 + each * self.teacher_steps * self.teacher.evaluations

    @property
    def teaches_steps(self) -> int:
        """How many steps of the uniform grid the student makes."""
        return self.steps

    @property
    def asks_steps(self) -> int | None:
        """How many steps of the uniform grid the teacher makes; None where it is asked for what is no jump."""
        return self.steps * self.teacher_steps if self.solver == "ddim" else None

    def forward(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator, step: int = 0
    ) -> Tensor:
        """Objective (B,) of ``x`` (B, ...), for training; every draw is from ``generator``, on its own device."""
        u = rand(x.shape[:1], generator).to(x)
        eps = self.coupling(x, randn(x.shape, generator).to(x), cond)
        return self.at_quantile(denoiser, x, cond, u, eps)

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """The loss (B,) of step ceil(u steps) from the data, for ``u`` (B,) and the noise ``eps`` (B, ...)."""
        i = torch.ceil(u * self.steps).clamp(1, self.steps)
        n = self.teacher_steps
        path = [times_at((i - k / n) / self.steps, denoiser.schedule) for k in range(n + 1)]
        t = path[0]
        x_t = noised(x, eps, t)
        with torch.no_grad():
            target = self._target(x_t, path, cond, denoiser.schedule)
        snr = torch.exp(denoiser.schedule.log_snr(t.t))
        return snr.clamp(min=1) * self.penalty(denoiser(x_t, t.t, cond) - target)

    def _target(self, x_t: Tensor, path: Sequence[Times], cond: Condition, schedule: Schedule) -> Tensor:
        """x̃ (B, ...)."""
        teacher, x_s, t, s = self.teacher.on(schedule, x_t), x_t, path[0], path[-1]
        for before, after in pairwise(path):
            x_s = ode_step(teacher, x_s, before, after, cond, self.solver)
        rho = s.sigma / t.sigma
        return (x_s - expand_as(rho, x_t) * x_t) / expand_as(s.alpha - rho * t.alpha, x_t)
