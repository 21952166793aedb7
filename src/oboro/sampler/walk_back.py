"""Samples of a denoiser of one noise level: noise and denoise, again and again."""

from collections.abc import Sequence
from math import isclose

from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import NonNegative, PositiveShare, Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.node import DATA, Node, nodes
from oboro.sampler.sampler import UNIFORM, Grid, Noise, Sampler, denoise
from oboro.schedule import Schedule


class WalkBack(Sampler):
    """x ← D(alpha x + sigma eps, t) + std eps', ``steps`` times at the one time t = ``level``; the last x is D alone.

    The Markov chain of a denoising autoencoder that takes p(x | x_t) for N(D(x_t), std²): Bengio et al. 2013
    (arXiv:1305.6663, sec. 2). Where that is p(x | x_t), its stationary distribution is that of the data. With
    ``std`` = 0, and for a D that is the mean of several modes, it is narrower; the walk then contracts. It begins in
    noise as if the data were 0, and forgets it, faster the higher the ``level``.

    Raises ``UserError`` for a walk from another time than t or to another end than data.
    """

    order = 1
    grid: Grid = UNIFORM  # of which nothing is used: the chain stays where it is

    def __init__(self, steps: Steps = 20, level: PositiveShare = 0.5, std: NonNegative = 0.0):
        if steps < 1:
            raise UserError(f"a walk needs at least one step and got {steps}; set sampler.steps to 1 or more.")
        self.steps = steps
        self.level = level
        self.std = std

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def forgets_start(self) -> bool:
        return True

    @property
    def walks_grid(self) -> bool:
        return False

    def nodes(self, schedule: Schedule, start: float = 1.0, stop: float = 0.0) -> list[Node]:
        """``steps`` times the node at ``level``, then the data; also of a walk that starts in data noised so far."""
        if stop != 0 or not (start == 1 or isclose(start, self.level, rel_tol=1e-6)):
            raise UserError(
                f"sampler=walk_back stays at t={self.level:g} and cannot go from t={start:g} to {stop:g}; start at "
                "sampler.level, or choose sampler=ddim."
            )
        return [*nodes(schedule, [self.level]) * self.steps, DATA]

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        x0 = denoise(denoiser, x, grid[0].t, cond)
        for t in grid[1:-1]:
            if self.std > 0:
                x0 = x0 + self.std * noise(x)
            x0 = denoise(denoiser, t.alpha * x0 + t.sigma * noise(x), t.t, cond)
        return x0
