"""What all samplers share: nodes of the time grid, and the call ``sampler(denoiser, x_T, cond, noise)``.

A sampler is a small configuration object: the same one serves raw, averaged and guided weights. It walks nodes
(t, alpha_t, sigma_t) of Python floats, computed once in float64; memory of earlier steps lives in the locals of the
loop. Every grid ends in exact data, (alpha, sigma) = (1, 0).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from math import atan2, inf, log, pi
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.schedule import Schedule


class Noise(Protocol):
    """Where stochastic samplers get their noise from; ``oboro.base.seeding.SampleNoise`` is one."""

    def __call__(self, like: Tensor) -> Tensor:
        """Fresh standard normal numbers of the shape, type and device of ``like`` (B, ...)."""

    def between(self, like: Tensor, a: float, b: float) -> Tensor:
        """(W(b) - W(a)) / sqrt(b - a) of one Brownian motion W on [0, 1] a sample, 0 ≤ a < b ≤ 1.

        Disjoint intervals are independent, and a finer grid sees the same path.
        """


class Node(NamedTuple):
    """A point of the time grid."""

    t: float
    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        """lambda = log(alpha / sigma), the time of the DPM-Solvers; ∓inf where alpha or sigma is 0."""
        if self.alpha == 0:
            return -inf
        return inf if self.sigma == 0 else log(self.alpha / self.sigma)

    @property
    def ratio(self) -> float:
        """rho = sigma / alpha, the noise level of EDM; inf where alpha is 0."""
        return inf if self.alpha == 0 else self.sigma / self.alpha

    @property
    def angle(self) -> float:
        """2/pi arctan(sigma / alpha) in [0, 1]: a clock that all schedules share, for Brownian noise."""
        return atan2(self.sigma, self.alpha) * 2 / pi


DATA = Node(0.0, 1.0, 0.0)


def nodes(schedule: Schedule, times: Sequence[float]) -> list[Node]:
    """The grid at the given times, evaluated in float64."""
    t = torch.tensor(times, dtype=torch.float64, device="cpu")
    alpha, sigma = schedule(t)
    return [Node(*row) for row in zip(t.tolist(), alpha.tolist(), sigma.tolist(), strict=True)]


def node_at(schedule: Schedule, half_log_snr: float) -> Node:
    """The node where log(alpha / sigma) has the given value, or the end of the schedule before it."""
    log_snr = torch.tensor([2 * half_log_snr], dtype=torch.float64, device="cpu")
    return nodes(schedule, schedule.t_from_log_snr(log_snr).clamp(0, 1).tolist())[0]


class Grid(ABC):
    """Where the network is evaluated: ``steps`` times from noise to data.

    A grid may start below t = 1; what signal is left there is neglected, as ``Schedule.prior`` neglects it at t = 1.
    """

    @abstractmethod
    def times(self, schedule: Schedule, steps: int) -> list[float]:
        """``steps`` times in [0, 1], strictly decreasing."""

    def __call__(self, schedule: Schedule, steps: int) -> list[Node]:
        """The nodes at these times, and the data node after them. Raises ``UserError`` where two of them coincide."""
        times = self.times(schedule, steps)
        if any(s >= t for t, s in pairwise(times)) or not 0 <= times[-1] <= times[0] <= 1:
            raise UserError(
                f"{type(self).__name__} has no {steps} different times on {type(schedule).__name__}; "
                "lower sampler.steps or choose another sampler/grid."
            )
        return [*nodes(schedule, times), DATA]


class Uniform(Grid):
    """Uniform in t: 1 - i/steps where sigma_0 = 0, 1 - i/(steps - 1) where the schedule stops at a positive sigma_0.

    There (Karras, VE) sigma_0 is visited and the last step removes it; on ``Karras`` that is eq. 5 of EDM
    (arXiv:2206.00364).
    """

    def times(self, schedule: Schedule, steps: int) -> list[float]:
        intervals = steps if nodes(schedule, [0.0])[0].sigma == 0 else max(steps - 1, 1)
        return [1 - i / intervals for i in range(steps)]


UNIFORM = Uniform()


def same_time(x: Tensor, t: float) -> Tensor:
    """``t`` for every row of ``x`` (B, ...): (B,), of its type and on its device."""
    return torch.full((len(x),), t, dtype=x.dtype, device=x.device)


def denoise(denoiser: Denoises, x: Tensor, t: float, cond: Condition) -> Tensor:
    """D(x, t) with the same time for the whole batch."""
    return denoiser(x, same_time(x, t), cond)


class Sampler(ABC):
    """``steps`` of a solver on a ``grid``.

    ``order``: the order of convergence of x̂0 in the step size, of its mean and variance where noise is drawn.
    """

    order: int

    def __init__(self, steps: int, grid: Grid = UNIFORM):
        if steps < 1:
            raise UserError(f"A sampler needs at least one step and got {steps}; set sampler.steps to 1 or more.")
        self.steps = steps
        self.grid = grid

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn on the way. Then x_T alone does not decide the sample."""
        return False

    @property
    def jumps(self) -> bool:
        """Whether x̂0 is taken for the end of the flow, and never for a mean on the way there."""
        return self.steps == 1

    @property
    def asks_variance(self) -> bool:
        """Whether it asks for ``Denoises.with_variance``."""
        return False

    @property
    def walks_grid(self) -> bool:
        """Whether its steps are those of the grid."""
        return True

    def nodes(self, schedule: Schedule) -> list[Node]:
        """The time grid on ``schedule``, ``steps`` nodes and the data."""
        return self.grid(schedule, self.steps)

    def evaluations(self, schedule: Schedule) -> int:
        """Number of denoiser evaluations of one call on ``schedule`` (NFE); the most there can be if that depends."""
        return self.steps

    @abstractmethod
    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        """Carry ``x`` (B, ...) at ``grid[0]`` to ``grid[-1]``."""

    def __call__(self, denoiser: Denoises, x_T: Tensor, cond: Condition, noise: Noise) -> Tensor:
        """x̂0 (B, ...) from ``x_T`` ~ N(0, sigma_1²) at t = 1, scaled to the sigma of the first node."""
        grid = self.nodes(denoiser.schedule)
        (end,) = nodes(denoiser.schedule, [1.0])
        start = x_T if grid[0] == end else x_T * (grid[0].sigma / end.sigma)
        return self.solve(denoiser, start, grid, cond, noise)
