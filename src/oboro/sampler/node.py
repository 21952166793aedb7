"""Points of a time grid, what lies between two of them, and the step that joins two of them."""

from collections.abc import Sequence
from math import atan2, inf, isclose, log, pi
from typing import NamedTuple

import torch
from torch import Tensor

from oboro.schedule import Schedule

SAME = 1e-6  # relative difference of two times below which no step fits between them


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


def part(schedule: Schedule, grid: Sequence[Node], start: float, stop: float) -> list[Node]:
    """The nodes of a walk from ``start`` to ``stop``, two times in [0, 1], upwards where stop > start.

    These two and what ``grid``, which falls from noise to ``DATA``, has strictly between them. Time 0 is ``DATA``, also
    on schedules with sigma_0 > 0. Time 1 is the first node of the grid, which may lie below it.
    """
    high, low = max(start, stop), min(start, stop)
    top = grid[0] if high == 1 and grid[0].t > low else _node(schedule, grid, high)
    bottom = DATA if low == 0 else _node(schedule, grid, low)

    def between(t: float) -> bool:
        above = bottom is DATA or (t > low and not isclose(t, low, rel_tol=SAME))
        return above and t < top.t and not isclose(t, top.t, rel_tol=SAME)

    walk = [top, *[node for node in grid[:-1] if between(node.t)], bottom]
    return walk if stop < start else walk[::-1]


def _node(schedule: Schedule, grid: Sequence[Node], t: float) -> Node:
    """At time ``t``; that of the grid where it has one, to the last bit."""
    return next((node for node in grid[:-1] if node.t == t), None) or nodes(schedule, [t])[0]


def steppable(t: Node, s: Node) -> bool:
    """Whether lambda = log(alpha / sigma) is finite at both ends of a step: elsewhere all steps are those of DDIM."""
    return t.alpha > 0 and s.sigma > 0 and s.alpha > 0 and t.sigma > 0


def ddim_step(x: Tensor, x0: Tensor, t: Node, s: Node) -> Tensor:
    """x_s = alpha_s x̂0 + sigma_s (x_t - alpha_t x̂0) / sigma_t."""
    ratio = s.sigma / t.sigma
    return (s.alpha - t.alpha * ratio) * x0 + ratio * x
