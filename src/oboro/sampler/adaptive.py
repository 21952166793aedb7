"""Step sizes chosen by an estimate of the error."""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import NonNegative, Positive, Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.node import Node, ddim_step, node_at
from oboro.sampler.sampler import UNIFORM, Grid, Noise, Sampler, denoise
from oboro.schedule import Schedule, expand_as

PIECES = 4  # evaluations that a step extrapolates from
SHARE = 0.1  # of the tolerance for one step, which extrapolates and is taken before D at its end is known
SHRINK, GROWTH = 0.2, 1.5  # of a step from one trial to the next
NODES, WEIGHTS = ((torch.from_numpy(v) + c) / 2 for v, c in zip(leggauss(8), (1, 0), strict=True))  # on [0, 1]


class Adaptive(Sampler):
    """Steps in lambda = log(alpha / sigma) as long as the error allows, for each sample on its own.

    x_s = sigma_s/sigma_t x_t + alpha_s ∫_0^h e^{-(h-τ)} P(τ) dτ with h = lambda_s - lambda_t and P the polynomial
    through the last four D, one evaluation a step. With D at x_s, which the next step needs anyway, x_s is computed
    once more. That is DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095) with the predictor and corrector of UniPC
    (Zhao et al. 2023, arXiv:2302.04867) as an Adams method of variable steps (Hairer, Nørsett & Wanner
    1993, sec. III.5).

    A step is taken if the root mean square E over the sample of (x⁴ - x³) / max(atol, rtol |x³|, rtol |x|), with x³ of
    the last three D, is at most 1/10; else it is tried again, shorter, without another evaluation. The length goes with
    (E/0.1)^{-1/4}, and grows by at most a half. Tolerances are those of DPM-Solver-23 (arXiv:2206.00927, app. C), which
    takes more evaluations at the same ones and has larger errors. The first steps are of lower orders; the very first
    has the length ``first`` sqrt(rtol / 0.05) in lambda, at most ``first``.

    Of the grid only the two ends count, cut to lambda in [``low``, ``high``]; what remains there is removed at once.
    A walk that ends before the data goes to its end, and one that goes beyond ``low`` takes that part in one step.
    ``steps`` are the most trials. Samples do not depend on their companions; a batch takes as many evaluations as its
    slowest sample. Raises ``UserError`` where the trials do not suffice.
    """

    order = 4

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
        return self.steps + 2

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
        way = 1.0 if start <= end else -1.0
        lam = torch.full((len(x),), start, dtype=torch.float64)
        h = torch.full_like(lam, way * self.first * min(1.0, (self.rtol / 0.05) ** 0.5))
        known: list[Evaluation] = []  # the newest first; of all samples, since all take every step, as short as need be
        before, trials = None, 0
        while (way * (end - lam) > 0).any():
            t = denoiser.schedule.t_from_log_snr(2 * lam).clamp(0, 1)
            known = [Evaluation(lam, denoiser(x, t.to(x), cond)), *known]
            if before is not None:
                # Not for who has arrived: alone it would not have been evaluated there.
                corrected = exponential_step(denoiser.schedule, *before, lam, known)
                x = torch.where(expand_as((lam == end).to(x.device), x), x, corrected)
            known = known[:PIECES]
            while True:
                trials += 1
                if trials > self.steps:
                    raise UserError(
                        f"{self.steps} trials of a step do not reach the data at rtol={self.rtol:g}, "
                        f"atol={self.atol:g}; raise sampler.steps or a tolerance."
                    )
                to = torch.where(way * h < way * (end - lam), lam + h, end)
                trial = exponential_step(denoiser.schedule, x, lam, to, known)
                error = self._error(denoiser.schedule, x, lam, to, known, trial)
                taken = error <= 1
                factor = 0.9 * error.clamp(min=1e-12) ** (-1 / len(known))
                if taken.all():
                    break
                h = torch.where(taken, h, (to - lam) * factor.clamp(SHRINK, 0.95))
            before, x = (x, lam), trial
            h, lam = (to - lam) * factor.clamp(SHRINK, GROWTH), to
        return x

    def _error(
        self, schedule: Schedule, x: Tensor, lam: Tensor, to: Tensor, known: Sequence["Evaluation"], trial: Tensor
    ) -> Tensor:
        """E / 0.1 (B,): how far ``trial`` is from the step of one order less, 1 the most; 0 for the first step."""
        if len(known) == 1:
            return torch.zeros_like(lam)
        coarse = exponential_step(schedule, x, lam, to, known[:-1])
        scale = (self.rtol * torch.maximum(coarse.abs(), x.abs())).clamp(min=self.atol)
        return ((trial - coarse) / scale).square().flatten(1).mean(1).sqrt().cpu().double() / SHARE


class Evaluation(NamedTuple):
    """D (B, ...) at lambda = ``lam`` (B,), float64 on the CPU."""

    lam: Tensor
    x0: Tensor


def exponential_step(schedule: Schedule, x: Tensor, lam: Tensor, to: Tensor, known: Sequence[Evaluation]) -> Tensor:
    """``x`` (B, ...) from ``lam`` to ``to`` (B,) with the polynomial through ``known``; left where they are equal."""
    h = to - lam
    (_, sigma_t), (alpha_s, sigma_s) = (schedule(schedule.t_from_log_snr(2 * v).clamp(0, 1)) for v in (lam, to))
    out = expand_as((sigma_s / sigma_t).to(x), x) * x
    for weight, evaluation in zip(integrals(h, [e.lam - lam for e in known]), known, strict=True):
        out = out + expand_as((alpha_s * weight).to(x), x) * evaluation.x0
    return torch.where(expand_as((h == 0).to(x.device), x), x, out)


def integrals(h: Tensor, at: Sequence[Tensor]) -> list[Tensor]:
    """∫_0^h e^{-(h-τ)} l_i(τ) dτ (B,) of the Lagrange polynomials of the points ``at`` (B,); 8-point Gauss-Legendre."""
    tau = h[:, None] * NODES
    kernel = WEIGHTS * h[:, None] * torch.exp(tau - h[:, None])
    weights = []
    for i, a in enumerate(at):
        others = [(tau - b[:, None]) / (a - b)[:, None] for j, b in enumerate(at) if j != i]
        weights.append(reduce(torch.mul, others, kernel).sum(1))
    return weights
