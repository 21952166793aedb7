"""Step sizes chosen by an estimate of the error."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import NonNegative, Positive, Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.node import Node, ddim_step, node_at
from oboro.sampler.sampler import UNIFORM, Grid, Noise, Sampler, denoise
from oboro.schedule import Schedule, expand_as

GROWTH = (0.2, 5.0)  # of a step from one trial to the next


class Adaptive(Sampler):
    """Steps in lambda = log(alpha / sigma) as long as the error allows, for each sample on its own.

    DPM-Solver++ of orders 1 and 2 (2S) from the same two evaluations: x¹ and x². A step is taken if the root mean
    square E over the sample of (x² - x¹) / max(atol, rtol |x¹|, rtol |x|) is at most 1; the next one is 0.9 E^{-1/2}
    times as long. Lu et al. 2022 (arXiv:2206.00927, app. C, DPM-Solver-12) with x̂0 in place of eps.

    Of the grid only the two ends count, cut to lambda in [``low``, ``high``]; what remains there is removed at once.
    A walk that ends before the data goes to its end, and one that goes beyond ``low`` takes that part in one step.
    ``first`` is the first step in lambda and ``steps`` the most trials. Samples do not depend on their companions; a
    batch takes as many evaluations as its slowest sample. Raises ``UserError`` where the trials do not suffice.
    """

    order = 2

    def __init__(
        self,
        steps: Steps = 200,
        rtol: NonNegative = 0.05,
        atol: NonNegative = 0.0078,
        first: Positive = 0.05,
        low: float = -5.0,
        high: float = 5.0,
        grid: Grid = UNIFORM,
    ):
        super().__init__(steps, grid)
        self.rtol = rtol
        self.atol = atol
        self.first = first
        self.low = low
        self.high = high

    @property
    def walks_grid(self) -> bool:
        return False

    def evaluations(self, schedule: Schedule, start: float = 1.0, stop: float = 0.0) -> int:
        return 2 * self.steps + 2

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        schedule, start, end, into_data = denoiser.schedule, grid[0], grid[-1], grid[-1].sigma == 0
        if into_data:
            end = node_at(schedule, min(grid[-2].half_log_snr, max(self.high, start.half_log_snr)))
        if start.half_log_snr < self.low:
            inner = node_at(schedule, self.low) if self.low < end.half_log_snr else end
            x, start = ddim_step(x, denoise(denoiser, x, start.t, cond), start, inner), inner
        last = node_at(schedule, self.low) if end.half_log_snr < self.low <= start.half_log_snr else end
        x = self._walk(denoiser, x, start.half_log_snr, last.half_log_snr, cond)
        if into_data:
            return denoise(denoiser, x, end.t, cond)
        return x if last == end else ddim_step(x, denoise(denoiser, x, last.t, cond), last, end)

    def _walk(self, denoiser: Denoises, x: Tensor, start: float, end: float, cond: Condition) -> Tensor:
        """``x`` (B, ...) at lambda = ``start`` carried to ``end``, in either direction."""
        nearer, way = (torch.minimum, 1.0) if start <= end else (torch.maximum, -1.0)
        lam = torch.full((len(x),), start, dtype=torch.float64)
        h = torch.full_like(lam, way * self.first)
        for _ in range(self.steps):
            h = nearer(h, end - lam)
            if not (way * h > 0).any():
                break
            coarse, fine = self._trial(denoiser, x, lam, lam + h, cond)
            scale = self.rtol * torch.maximum(coarse.abs(), x.abs())
            error = ((fine - coarse) / scale.clamp(min=self.atol)).square().flatten(1).mean(1).sqrt().double().cpu()
            taken = error <= 1
            x = torch.where(expand_as(taken.to(x.device), x), fine, x)
            lam = torch.where(taken, lam + h, lam)
            h = h * (0.9 * error.clamp(min=1e-12).rsqrt()).clamp(*GROWTH)
        else:
            raise UserError(
                f"{self.steps} trials of a step do not reach the data at rtol={self.rtol:g}, atol={self.atol:g}; "
                "raise sampler.steps or a tolerance."
            )
        return x

    def _trial(self, denoiser: Denoises, x: Tensor, lam: Tensor, to: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """x¹ and x² of the step from lambda = ``lam`` (B,) to ``to`` (B,)."""
        schedule = denoiser.schedule
        t, m, s = (schedule.t_from_log_snr(2 * v).clamp(0, 1) for v in (lam, (lam + to) / 2, to))

        def evaluate(x: Tensor, t: Tensor) -> Tensor:
            return denoiser(x, t.to(x), cond)

        def step(x0: Tensor, t: Tensor, s: Tensor, h: Tensor) -> Tensor:
            (_, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
            kept, change = sigma_s / sigma_t, -alpha_s * torch.expm1(-h)
            return expand_as(kept.to(x), x) * x + expand_as(change.to(x), x) * x0

        x0 = evaluate(x, t)
        middle = evaluate(step(x0, t, m, (to - lam) / 2), m)
        return step(x0, t, s, to - lam), step(middle, t, s, to - lam)
