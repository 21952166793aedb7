"""The samplers of EDM: Euler and Heun in sigma / alpha, with churn."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from math import inf, log, sqrt

from torch import Tensor

from oboro.base.ranges import NonNegative, NonNegativeOrInfinite, Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.node import Node, ddim_step, node_at, steppable
from oboro.sampler.sampler import UNIFORM, Grid, Noise, Sampler, denoise
from oboro.schedule import Schedule


class Churned(Sampler):
    """Steps of an ODE solver, each after noise that takes rho = sigma / alpha to (1 + gamma) rho.

    gamma = min(churn / steps, sqrt(2) - 1) where rho is in [``churn_low``, ``churn_high``], else 0; ``noise_std`` above
    1 makes up for detail that a network loses. Karras et al. 2022 (arXiv:2206.00364, algorithm 2: S_churn, S_tmin,
    S_tmax, S_noise).
    """

    def __init__(
        self,
        steps: Steps = 18,
        churn: NonNegative = 0.0,
        churn_low: NonNegative = 0.0,
        churn_high: NonNegativeOrInfinite = inf,
        noise_std: NonNegative = 1.0,
        grid: Grid = UNIFORM,
    ):
        super().__init__(steps, grid)
        self.churn = churn
        self.churn_low = churn_low
        self.churn_high = churn_high
        self.noise_std = noise_std

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    @property
    def walks_grid(self) -> bool:
        return self.churn == 0  # else a step begins above its node

    @abstractmethod
    def step(self, denoiser: Denoises, x: Tensor, t: Node, s: Node, cond: Condition) -> Tensor:
        """``x`` (B, ...) at ``t`` carried to ``s``."""

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        for t, s in pairwise(grid):
            x, up = self._add_noise(x, t, denoiser.schedule, noise)
            x = self.step(denoiser, x, up, s, cond)
        return x

    def _add_noise(self, x: Tensor, t: Node, schedule: Schedule, noise: Noise) -> tuple[Tensor, Node]:
        """``x`` at ``t`` carried to a noisier node, at most to the end of the schedule."""
        gamma = min(self.churn / self.steps, sqrt(2) - 1) if self.churn_low <= t.ratio <= self.churn_high else 0.0
        if gamma == 0 or t.alpha == 0:
            return x, t
        up = node_at(schedule, -log((1 + gamma) * t.ratio))
        if up.ratio <= t.ratio:
            return x, t
        added = self.noise_std * sqrt(up.ratio**2 - t.ratio**2) if up.alpha > 0 else inf
        return up.alpha * (x / t.alpha + added * noise(x)), up


class Euler(Churned):
    """x / alpha moves by eps̃ = (x_t - alpha_t x̂0) / sigma_t times the change of sigma / alpha: DDIM, with churn.

    Karras et al. 2022 (arXiv:2206.00364, algorithm 2 without its second-order part).
    """

    order = 1

    @property
    def names_ends(self) -> bool:
        return True

    def step(self, denoiser: Denoises, x: Tensor, t: Node, s: Node, cond: Condition) -> Tensor:
        return ddim_step(x, denoise(denoiser, x, t.t, cond, s), t, s)


class Heun(Churned):
    """Trapezoid rule on d(x / alpha) / d(sigma / alpha) = eps̃(x), with eps̃ = (x_t - alpha_t D) / sigma_t.

    Karras et al. 2022 (arXiv:2206.00364, algorithm 1, and algorithm 2 with ``churn``) for any schedule. A step that
    ends in data, or starts where no signal is left, is a single DDIM step. One such step costs no order, except for the
    last one on ``VP``: there sigma is proportional to the root of t, and its error of sigma² is one of first order.
    """

    order = 2

    def evaluations(self, schedule: Schedule, start: float = 1.0, stop: float = 0.0) -> int:
        return sum(1 + steppable(t, s) for t, s in pairwise(self.nodes(schedule, start, stop)))

    def step(self, denoiser: Denoises, x: Tensor, t: Node, s: Node, cond: Condition) -> Tensor:
        return heun_step(denoiser, x, t, s, cond)


def heun_step(denoiser: Denoises, x: Tensor, t: Node, s: Node, cond: Condition) -> Tensor:
    x0 = denoise(denoiser, x, t.t, cond)
    euler = ddim_step(x, x0, t, s)
    if not steppable(t, s):
        return euler
    eps = (x - t.alpha * x0) / t.sigma
    eps_s = (euler - s.alpha * denoise(denoiser, euler, s.t, cond)) / s.sigma
    # The Euler step used eps alone; add half of the change of eps over the step.
    return euler + (s.sigma - t.sigma * s.alpha / t.alpha) / 2 * (eps_s - eps)
