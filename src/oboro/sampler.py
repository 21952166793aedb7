"""From noise to image: solvers of the reverse process, called as ``sampler(denoiser, x_T, cond, noise)``.

A sampler is a small configuration object: the same one serves raw, averaged and guided weights. It walks a grid of
nodes (t, alpha_t, sigma_t) of Python floats, computed once in float64; memory of earlier steps lives in the locals of
the loop.

The time grid has ``steps`` nodes where the network is evaluated and ends in exact data, (alpha, sigma) = (1, 0).
Where sigma_0 = 0 the nodes are t = 1 - i/steps; where the schedule stops at a positive sigma_0 (Karras, VE) they are
t = 1 - i/(steps - 1), so that sigma_0 is visited and the last step removes it (EDM, arXiv:2206.00364, eq. 5).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import expm1, inf, log, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from oboro.denoiser import Cond, Denoises
from oboro.errors import UserError
from oboro.schedule import Schedule

Noise = Callable[[Tensor], Tensor]


class Node(NamedTuple):
    """A point of the time grid."""

    t: float
    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """log(alpha / sigma), the time of the DPM-Solvers; ∓inf where alpha or sigma is 0."""
        if self.alpha == 0:
            return -inf
        return inf if self.sigma == 0 else log(self.alpha / self.sigma)


DATA = Node(0.0, 1.0, 0.0)


def nodes(schedule: Schedule, times: Sequence[float]) -> list[Node]:
    """The grid at the given times, evaluated in float64."""
    t = torch.tensor(times, dtype=torch.float64, device="cpu")
    alpha, sigma = schedule(t)
    return [Node(*row) for row in zip(t.tolist(), alpha.tolist(), sigma.tolist(), strict=True)]


def uniform_nodes(schedule: Schedule, steps: int) -> list[Node]:
    """``steps`` nodes uniform in t and the data node after them, as described at the top of this file."""
    (first,) = nodes(schedule, [0.0])
    intervals = steps if first.sigma == 0 else max(steps - 1, 1)
    return [*nodes(schedule, [1 - i / intervals for i in range(steps)]), DATA]


def denoise(denoiser: Denoises, x: Tensor, t: float, cond: Cond) -> Tensor:
    """D(x, t) with the same time for the whole batch."""
    return denoiser(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device), cond)


class Sampler(ABC):
    """``order``: the declared order of convergence of x̂0 in the step size, for noise-free sampling."""

    order: float

    def __init__(self, steps: int):
        if steps < 1:
            raise UserError(f"A sampler needs at least one step and got {steps}; set sampler.steps to 1 or more.")
        self.steps = steps

    @abstractmethod
    def evaluations(self, schedule: Schedule) -> int:
        """Number of denoiser evaluations of one call on ``schedule`` (NFE)."""

    @abstractmethod
    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Cond, noise: Noise) -> Tensor:
        """Carry ``x`` (B, ...) at ``grid[0]`` to ``grid[-1]``; ``noise(like)`` gives fresh standard normal noise."""

    def __call__(self, denoiser: Denoises, x_T: Tensor, cond: Cond, noise: Noise) -> Tensor:
        """x̂0 (B, ...) from ``x_T`` ~ N(0, sigma_1²) at t = 1."""
        return self.solve(denoiser, x_T, uniform_nodes(denoiser.schedule, self.steps), cond, noise)


def ddim_step(x: Tensor, x0: Tensor, t: Node, s: Node) -> Tensor:
    """x_s = alpha_s x̂0 + sigma_s (x_t - alpha_t x̂0) / sigma_t."""
    ratio = s.sigma / t.sigma
    return (s.alpha - t.alpha * ratio) * x0 + ratio * x


class DDIM(Sampler):
    """x_s = alpha_s x̂0 + sigma_s (sqrt(1 - tau) (x_t - alpha_t x̂0) / sigma_t + sqrt(tau) z).

    tau = min(eta² (1 - (alpha_t sigma_s / (alpha_s sigma_t))²), 1). Song et al. 2021 (arXiv:2010.02502, eq. 12, 16).
    eta = 0 is DDIM, and on the linear schedule Euler's method for the flow; eta = 1 is DDPM's ancestral sampling
    (arXiv:2006.11239, eq. 7); eta → inf renoises x̂0 at each step, as multistep consistency models do.
    """

    order = 1

    def __init__(self, steps: int = 50, eta: float = 0.0):
        super().__init__(steps)
        self.eta = eta

    def evaluations(self, schedule: Schedule) -> int:
        return self.steps

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Cond, noise: Noise) -> Tensor:
        for t, s in pairwise(grid):
            x0 = denoise(denoiser, x, t.t, cond)
            tau = min(self.eta**2 * (1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2), 1.0)
            if tau > 0 and s.sigma > 0:
                kept = s.sigma * sqrt(1 - tau)
                x = ddim_step(x, x0, t, s._replace(sigma=kept)) + s.sigma * sqrt(tau) * noise(x)
            else:
                x = ddim_step(x, x0, t, s)
        return x


class Heun(Sampler):
    """Trapezoid rule on d(x / alpha) / d(sigma / alpha) = eps̃(x), with eps̃ = (x_t - alpha_t D) / sigma_t.

    The deterministic sampler of EDM (Karras et al. 2022, arXiv:2206.00364, algorithm 1) for any schedule. A step that
    ends in data, or starts where no signal is left, is a single DDIM step. One such step costs no order, except for the
    last one on ``VP``: there sigma is proportional to the root of t, and its error of sigma² is one of first order.
    """

    order = 2

    def __init__(self, steps: int = 18):
        super().__init__(steps)

    def evaluations(self, schedule: Schedule) -> int:
        return sum(1 + self._corrected(t, s) for t, s in pairwise(uniform_nodes(schedule, self.steps)))

    @staticmethod
    def _corrected(t: Node, s: Node) -> bool:
        return s.sigma > 0 and t.alpha > 0

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Cond, noise: Noise) -> Tensor:
        for t, s in pairwise(grid):
            x0 = denoise(denoiser, x, t.t, cond)
            euler = ddim_step(x, x0, t, s)
            if self._corrected(t, s):
                eps = (x - t.alpha * x0) / t.sigma
                eps_s = (euler - s.alpha * denoise(denoiser, euler, s.t, cond)) / s.sigma
                # x_s of the Euler step used eps alone; add half of the change of eps over the step.
                x = euler + (s.sigma - t.sigma * s.alpha / t.alpha) / 2 * (eps_s - eps)
            else:
                x = euler
        return x


class DPMSolverPP(Sampler):
    """DPM-Solver++(2M): second-order multistep in lambda = log(alpha / sigma), one evaluation a step.

    x_s = sigma_s / sigma_t x_t - alpha_s (e^{-h} - 1) D̃, h = lambda_s - lambda_t,
    D̃ = D_t + h / (2 h') (D_t - D_{t'}) with t' the node before t and h' = lambda_t - lambda_{t'}.
    Lu et al. 2022 (arXiv:2211.01095, algorithm 2). The first step, and the last one into data, are first order.
    """

    order = 2

    def __init__(self, steps: int = 20):
        super().__init__(steps)

    def evaluations(self, schedule: Schedule) -> int:
        return self.steps

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Cond, noise: Noise) -> Tensor:
        earlier: tuple[Tensor, float] | None = None
        for t, s in pairwise(grid):
            x0 = denoise(denoiser, x, t.t, cond)
            h = s.half_log_snr - t.half_log_snr
            slope = x0
            if earlier is not None and s.sigma > 0:
                slope = x0 + h / (2 * earlier[1]) * (x0 - earlier[0])
            x = s.sigma / t.sigma * x - s.alpha * expm1(-h) * slope
            earlier = x0, h
        return x
