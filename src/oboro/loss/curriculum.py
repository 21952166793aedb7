"""How far below t the second time r of a consistency loss lies, and how that distance shrinks over a run."""

from abc import ABC, abstractmethod
from math import floor, log2

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Count, NonNegative, Positive, Steps
from oboro.loss.time import T_MIN
from oboro.schedule import Schedule


class Curriculum(ABC):
    """(t, step of the run) ↦ (t, r) with r < t; r = 0 stands for exact data. A function of the step and no state.

    ``from_denoiser``: it is for a network that has been trained as a denoiser before.
    """

    from_denoiser = False

    @abstractmethod
    def __call__(self, t: Tensor, schedule: Schedule, step: int | None) -> tuple[Tensor, Tensor]:
        """The pair, both (B,), for ``t`` (B,) in (0, 1]; ``step`` None is the end of the curriculum, which validation
        looks at."""


class Discrete(Curriculum):
    """Neighbours of a grid that is uniform in t: t = ceil(t N) / N and r = t - 1/N, with N a function of step k:

        N(k) = min(first 2^floor(k / K'), last), K' = floor(total / (log2 floor(last / first) + 1))

    Song & Dhariwal 2023 (arXiv:2310.14189, eq. 8), whose grid is uniform in the t of ``Karras``; ``first`` = ``last``
    is the grid of consistency distillation (arXiv:2303.01469, N - 1 = 17 there). The first pair ends in exact data, not
    in the noise that a schedule with sigma_0 > 0 has left. Raises ``UserError`` where ``last`` is below ``first``, or
    where N grows and the run has no known end.
    """

    def __init__(self, first: Steps = 10, last: Steps = 1280, total: int = 1):
        if last < first:
            raise UserError(
                f"the grid would shrink from {first} to {last}; set loss.curriculum.last to loss.curriculum.first or "
                "more."
            )
        if total < 1 and last > first:
            raise UserError(
                "the grid grows over a run whose end is not known; set trainer.max_steps, or loss.curriculum.total."
            )
        self.first, self.last, self.total = first, last, total

    def intervals(self, step: int | None) -> int:
        """N at ``step``."""
        if step is None or self.first == self.last:
            return self.last
        every = max(floor(self.total / (log2(self.last // self.first) + 1)), 1)
        return min(self.first * 2 ** min(step // every, 32), self.last)

    def __call__(self, t: Tensor, schedule: Schedule, step: int | None) -> tuple[Tensor, Tensor]:
        n = self.intervals(step)
        k = torch.ceil(t * n).clamp(1, n)
        return k / n, (k - 1) / n


class Easy(Curriculum):
    """r = max(1 - n(t) / q^(i + 1), 0) t in rho = sigma / alpha, with n(rho) = 1 + k sigmoid(-b rho).

    The mapping of easy consistency tuning, Geng et al. 2024 (arXiv:2406.14548, sec. 3 and app. A; k = 8, b = 1). Stage
    i = min(floor(step / ``every``), ``stages`` - 1) begins near the denoising loss, r = 0 for most t with q = 2, and
    ends near the differential consistency condition. What falls below the noise of the schedule's own t = 0 is data.
    """

    from_denoiser = True

    def __init__(
        self, q: Positive = 2.0, stages: Count = 8, every: Count = 25_000, k: NonNegative = 8.0, b: Positive = 1.0
    ):
        if q <= 1:
            raise UserError(f"q = {q} does not shrink the distance of t and r; set loss.curriculum.q above 1.")
        self.q, self.stages, self.every, self.k, self.b = q, stages, every, k, b

    def stage(self, step: int | None) -> int:
        return self.stages - 1 if step is None else min(step // self.every, self.stages - 1)

    def __call__(self, t: Tensor, schedule: Schedule, step: int | None) -> tuple[Tensor, Tensor]:
        log_snr = schedule.log_snr(t)
        n = 1 + self.k * torch.sigmoid(-self.b * torch.exp(-log_snr / 2))
        ratio = (1 - n / self.q ** (self.stage(step) + 1)).clamp(min=0)
        r = schedule.t_from_log_snr(log_snr - 2 * torch.log(ratio))  # +inf, data, where the ratio is 0
        return t, torch.where((ratio > 0) & (r > T_MIN), r, 0.0)
