"""Error against evaluations of sampler=adaptive, DPM-Solver-23 and fixed steps: the table of docs/choosing.md.

python benchmarks/adaptive.py

Exact denoisers of 256 numbers on schedule=karras, from sigma = 80 to lambda = 5, and x̂0 there; the error is the root
mean square distance from the exact flow. Solvers of fixed steps get steps of equal length in lambda.
"""

from collections.abc import Callable
from math import atan, exp, expm1, log

import torch
from torch import Tensor

from oboro.condition import Condition
from oboro.denoiser.exact import GaussianDenoiser, MixtureDenoiser
from oboro.sampler import DATA, Adaptive, DPMSolverPP, DPMSolverPP2S, Sampler, UniPC, node_at
from oboro.schedule import Karras, Schedule

TOLERANCES = (0.1, 0.05, 0.02, 0.01, 0.001)
ATOL = 0.156  # of rtol: 0.0078 at 0.05, the defaults of both


def dpm_solver_23(
    denoise: Callable[[Tensor, float], Tensor],
    x: Tensor,
    start: float,
    end: float,
    rtol: float,
    atol: float,
    h: float = 0.05,
) -> tuple[Tensor, int]:
    """x at lambda = ``end`` and the number of evaluations: Lu et al. 2022 (arXiv:2206.00927, app. C).

    ``denoise(x, sigma)`` with alpha = 1. Orders 2 and 3 share evaluations. Steps are controlled as in k-diffusion: by
    factors 1 + arctan(E^{-1/3} - 1), a step taken from 0.81 on, with the last x of order 2 in the tolerance.
    """
    count, lam, before = 0, start, x

    def noise(x: Tensor, lam: float) -> Tensor:
        nonlocal count
        count += 1
        return (x - denoise(x, exp(-lam))) / exp(-lam)

    def phi(h: float) -> float:
        return expm1(h) / h - 1

    while lam < end - 1e-5:
        step = min(h, end - lam)
        sigma_1, sigma_2, sigma = (exp(-lam - r * step) for r in (1 / 3, 2 / 3, 1))
        eps = noise(x, lam)
        u = x - sigma_1 * expm1(step / 3) * eps
        change = noise(u, lam + step / 3) - eps
        low = x - sigma * expm1(step) * (eps + 1.5 * change)
        u = x - sigma_2 * (expm1(step * 2 / 3) * eps + 2 * phi(step * 2 / 3) * change)
        change = noise(u, lam + step * 2 / 3) - eps
        high = x - sigma * (expm1(step) * eps + 1.5 * phi(step) * change)
        scale = (rtol * torch.maximum(low.abs(), before.abs())).clamp(min=atol)
        error = float(((low - high) / scale).square().mean().sqrt())
        factor = 1 + atan((error + 1e-8) ** (-1 / 3) - 1)
        if factor >= 0.81:
            x, before, lam = high, low, lam + step
        h *= factor
    return x, count


class Counted:
    """A denoiser that counts its evaluations."""

    def __init__(self, denoiser: GaussianDenoiser | MixtureDenoiser):
        self.denoiser, self.schedule, self.evaluations = denoiser, denoiser.schedule, 0

    def __call__(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        self.evaluations += 1
        return self.denoiser(x, t, cond)

    def towards(self, alpha: float, sigma: float) -> "Counted":
        return self


class Problem:
    """Where all begin, where they end, and how far off they are there."""

    def __init__(self, denoiser: GaussianDenoiser | MixtureDenoiser, seed: int = 0):
        self.denoiser, self.schedule = denoiser, denoiser.schedule
        self.start, self.end = node_at(self.schedule, -log(80)), node_at(self.schedule, 5.0)
        draw = torch.Generator().manual_seed(seed)
        self.x = self.start.sigma * torch.randn(1, 256, generator=draw, dtype=torch.float64)
        t, s = (torch.tensor([node.t], dtype=torch.float64) for node in (self.start, self.end))
        self.exact = denoiser(denoiser.flow(self.x, t, s), s, Condition())

    def error(self, x0: Tensor) -> float:
        return float((x0 - self.exact).square().mean().sqrt())

    def of_sampler(self, sampler: Sampler, steps: int = 2) -> tuple[int, float]:
        """Evaluations and error; ``steps`` nodes before the data."""
        low, high = self.start.half_log_snr, self.end.half_log_snr
        inner = [node_at(self.schedule, low + (high - low) * i / (steps - 1)) for i in range(1, steps - 1)]
        counted = Counted(self.denoiser)
        x0 = sampler.solve(counted, self.x, [self.start, *inner, self.end, DATA], Condition(), None)
        return counted.evaluations, self.error(x0)

    def of_adaptive(self, rtol: float) -> tuple[int, float]:
        return self.of_sampler(Adaptive(1000, rtol, ATOL * rtol))

    def of_reference(self, rtol: float) -> tuple[int, float]:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            node = node_at(self.schedule, -log(sigma))
            return self.denoiser(node.alpha * x, torch.tensor([node.t], dtype=torch.float64), Condition())

        ends = self.start.half_log_snr, self.end.half_log_snr
        x, count = dpm_solver_23(denoise, self.x / self.start.alpha, *ends, rtol, ATOL * rtol)
        return count + 1, self.error(denoise(x, self.end.ratio))


def problems(schedule: Schedule) -> dict[str, Problem]:
    """A Gaussian, two peaks that overlap and two that do not."""
    weights, means = torch.tensor([[0.3, 0.7], [-0.6, 0.5]], dtype=torch.float64)
    return {
        "Gaussian": Problem(GaussianDenoiser(0.3, 0.7, schedule)),
        "wide mixture": Problem(MixtureDenoiser(weights, means, 0.3, schedule)),
        "narrow mixture": Problem(MixtureDenoiser(weights, means, 0.1, schedule)),
    }


def cell(result: tuple[int, float]) -> str:
    return f"{result[0]}: {result[1]:.1e}"


def main() -> None:
    for name, problem in problems(Karras()).items():
        print(f"{name}\n| rtol | adaptive | DPM-Solver-23 | 2S | 2M | UniPC |\n|---|---|---|---|---|---|")
        for rtol in TOLERANCES:
            ours = problem.of_adaptive(rtol)
            n = ours[0]
            row = [ours, problem.of_reference(rtol), problem.of_sampler(DPMSolverPP2S(), n // 2 + 1)]
            row += [problem.of_sampler(sampler, n) for sampler in (DPMSolverPP(), UniPC())]
            print(f"| {rtol:g} | " + " | ".join(map(cell, row)) + " |")


if __name__ == "__main__":
    main()
