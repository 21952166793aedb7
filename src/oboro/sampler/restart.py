"""Restart: back to more noise, several times, and down again."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

from torch import Tensor

from oboro.base.ranges import CountOrNone, NonNegative, Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.edm import heun_step
from oboro.sampler.grid import Karras
from oboro.sampler.node import Node, steppable
from oboro.sampler.sampler import UNIFORM, Grid, Noise, Sampler
from oboro.schedule import Schedule


class Restart(Sampler):
    """``Heun``, and ``repeats`` times back from rho = ``low`` to ``high``, with noise of variance high² - low².

    At the node next to ``low``, whose rho takes its place, x / alpha gets the noise, and Heun goes from ``high`` down
    to it again in ``restart_steps`` steps on a ``Karras`` grid. The noise contracts errors, and the ODE makes few.
    Xu et al. 2023 (arXiv:2306.14878, algorithm 1 and 2); rho = sigma / alpha. A part of the grid that does not lead
    from ``high`` to that node has no restart.
    """

    order = 2

    def __init__(
        self,
        steps: Steps = 18,
        repeats: CountOrNone = 2,
        restart_steps: Steps = 3,
        low: NonNegative = 0.06,
        high: NonNegative = 0.3,
        grid: Grid = UNIFORM,
    ):
        super().__init__(steps, grid)
        self.repeats = repeats
        self.restart_steps = restart_steps
        self.low = low
        self.high = high

    @property
    def stochastic(self) -> bool:
        return self.repeats > 0

    @property
    def walks_grid(self) -> bool:
        return self.repeats == 0

    def evaluations(self, schedule: Schedule, start: float = 1.0, stop: float = 0.0) -> int:
        grid = self.nodes(schedule, start, stop)
        passes = [grid, *[segment for segment in [self._segment(schedule, grid)] * self.repeats if segment]]
        return sum(1 + steppable(t, s) for nodes in passes for t, s in pairwise(nodes))

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        segment = self._segment(denoiser.schedule, grid)
        for t, s in pairwise(grid):
            x = heun_step(denoiser, x, t, s, cond)
            if segment and s == segment[-1]:
                top = segment[0]
                for _ in range(self.repeats):
                    x = top.alpha * (x / s.alpha + sqrt(top.ratio**2 - s.ratio**2) * noise(x))
                    for a, b in pairwise(segment):
                        x = heun_step(denoiser, x, a, b, cond)
        return x

    def _segment(self, schedule: Schedule, grid: Sequence[Node]) -> list[Node]:
        """The nodes of one way down; none where the sampler's grid has no inner node below ``high``, or where ``grid``
        does not lead down from there to that node."""
        inner = [node for node in self.nodes(schedule)[1:-1] if node.ratio < self.high]
        if not inner:
            return []
        bottom = min(inner, key=lambda node: abs(node.ratio - self.low))
        way = Karras(bottom.ratio, self.high)(schedule, self.restart_steps + 1)[:-2]
        return [*way, bottom] if bottom in grid and way[0].t <= grid[0].t else []
