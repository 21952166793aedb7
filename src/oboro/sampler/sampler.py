"""What all samplers share: the call ``sampler(denoiser, x, cond, noise, start, stop)``, and the grid that it walks.

A sampler is a small configuration object: the same one serves raw, averaged and guided weights. It walks nodes
(t, alpha_t, sigma_t) of Python floats, computed once in float64; memory of earlier steps lives in the locals of the
loop. Every grid ends in exact data, (alpha, sigma) = (1, 0).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises, same_time
from oboro.measurement import Measured
from oboro.sampler.node import DATA, Node, ddim_step, nodes, part
from oboro.schedule import Schedule


class Noise(Protocol):
    """Where stochastic samplers get their noise from; ``oboro.base.seeding.SampleNoise`` is one."""

    def __call__(self, like: Tensor) -> Tensor:
        """Fresh standard normal numbers of the shape, type and device of ``like`` (B, ...)."""

    def between(self, like: Tensor, a: float, b: float) -> Tensor:
        """(W(b) - W(a)) / sqrt(b - a) of one Brownian motion W on [0, 1] a sample, 0 ≤ a < b ≤ 1.

        Disjoint intervals are independent, and a finer grid sees the same path.
        """


class NoNoise:
    """In the place of ``Noise`` for samplers that draw none."""

    def __call__(self, like: Tensor) -> Tensor:
        raise UserError(
            "this sampler draws noise and was given none; give it oboro.base.seeding.SampleNoise(seed, ids), or take "
            "one that draws none, such as DDIM(eta=0)."
        )

    def between(self, like: Tensor, a: float, b: float) -> Tensor:
        return self(like)


class Grid(ABC):
    """Where the network is evaluated: ``steps`` times from noise to data.

    A grid may start below t = 1; what signal is left there is neglected, as ``Schedule.prior`` neglects it at t = 1.
    """

    @property
    def listed_steps(self) -> int | None:
        """The number of steps that it lists the values of, and interpolates for others; None where it is a formula."""
        return None

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


class UniformToData(Uniform):
    """1 - i / steps on every schedule: the last step leads from 1 / steps into data, and a sigma_0 > 0 is not visited.

    For models that jump, which spend nothing on noise that hardly differs from data.
    """

    def times(self, schedule: Schedule, steps: int) -> list[float]:
        return [1 - i / steps for i in range(steps)]


UNIFORM = Uniform()


def denoise(denoiser: Denoises, x: Tensor, t: float, cond: Condition, end: Node | None = None) -> Tensor:
    """D(x, t) with the same time for the whole batch; x̂0 of the DDIM step to ``end`` where that is given."""
    if end is not None:
        denoiser = denoiser.towards(end.alpha, end.sigma)
    return denoiser(x, same_time(x, t), cond)


class Sampler(ABC):
    """``steps`` of a solver on a ``grid``.

    ``order``: the order of convergence of x̂0 in the step size, of its mean and variance where noise is drawn.
    """

    order: int

    def __init__(self, steps: Steps, grid: Grid = UNIFORM):
        if steps < 1:
            raise UserError(f"A sampler needs at least one step and got {steps}; set sampler.steps to 1 or more.")
        self.steps = steps
        self.grid = grid

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn on the way. Then x_T alone does not decide the sample."""
        return False

    @property
    def invertible(self) -> bool:
        """Whether it walks upwards, from data to noise, too. Drawn noise cannot be taken back."""
        return not self.stochastic

    @property
    def jumps(self) -> bool:
        """Whether x̂0 is taken for the end of the flow, and never for a mean on the way there."""
        return self.steps == 1

    @property
    def names_ends(self) -> bool:
        """Whether each evaluation names the end of its step (``Denoises.towards``), so that a flow map can jump there.

        Solvers of higher order need means instead.
        """
        return False

    @property
    def asks_variance(self) -> bool:
        """Whether it asks for ``Denoises.with_variance``."""
        return False

    @property
    def measures(self) -> bool:
        """Whether it draws samples of a measurement, the signal ``measured`` of ``Condition.sampling``."""
        return False

    def check_measured(self, given: Measured) -> None:
        """Raises ``UserError`` for a measurement that it cannot draw samples of."""
        return None

    @property
    def forgets_start(self) -> bool:
        """Whether it walks a Markov chain whose end does not depend on where it begins, signal or noise."""
        return False

    @property
    def walks_grid(self) -> bool:
        """Whether its steps are those of the grid."""
        return True

    def nodes(self, schedule: Schedule, start: float = 1.0, stop: float = 0.0) -> list[Node]:
        """The nodes that a walk from ``start`` to ``stop`` visits, both ends with it.

        A whole walk has ``steps`` nodes and the data, a part of it what lies between its ends (``part``). Raises
        ``UserError`` for times outside of [0, 1] and for a way up that this sampler does not know.
        """
        grid = self.grid(schedule, self.steps)
        if (start, stop) == (1, 0):
            return grid
        if not (0 <= start <= 1 and 0 <= stop <= 1):
            raise UserError(f"start={start:g} and stop={stop:g} must be times from 0, data, to 1, noise; change them.")
        if start == stop:
            return []
        if stop > start and not self.invertible:
            raise UserError(
                f"{type(self).__name__} as set draws noise, which cannot be taken back on the way up from t={start:g} "
                f"to {stop:g}; choose a sampler without noise, such as sampler=ddim or sampler=heun."
            )
        walk = part(schedule, grid, start, stop)
        if start == 0 and walk[1].alpha == 0:
            raise UserError(
                f"{self.steps} steps have no time between data and noise without signal to go up by; "
                "raise sampler.steps, or stop below t=1."
            )
        return walk

    def evaluations(self, schedule: Schedule, start: float = 1.0, stop: float = 0.0) -> int:
        """Number of denoiser evaluations of one call on ``schedule`` (NFE); the most there can be if that depends."""
        return max(len(self.nodes(schedule, start, stop)) - 1, 0)

    @abstractmethod
    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        """Carry ``x`` (B, ...) at ``grid[0]`` to ``grid[-1]``.

        The grid falls, and may end in data and begin without signal; or it rises, with noise and signal at all nodes.
        """

    def __call__(
        self,
        denoiser: Denoises,
        x: Tensor,
        cond: Condition,
        noise: Noise | None,
        start: float = 1.0,
        stop: float = 0.0,
    ) -> Tensor:
        """x_stop (B, ...) from ``x`` = x_start: x̂0 of noise x_1 ~ N(0, sigma_1²) by default.

        The walk takes ``nodes(schedule, start, stop)``; solvers with a memory begin anew with their low orders. Where
        the grid begins below t = 1, x_1 is scaled to the sigma of its first node, and on the way up back from there.

        ``stop`` > ``start`` is the way up, inversion: DDIM's is Song et al. 2021 (arXiv:2010.02502, sec. 5.4), Euler's
        step with eps̃ at the node that is left. In exact data, t = 0, eps̃ is 0/0. So its first step, to the first noisy
        node s, is one iteration for the x_s that the last step down takes to x, D(x_s, s) = x, from x_s = alpha_s x:

            x_s = alpha_s x + sigma_s eps̃(alpha_s x, s) = alpha_s (2 x - D(alpha_s x, s)),

        off the exact flow by order (sigma_s / alpha_s)², as the last step down is. A last step to where no signal is
        left is DDIM's. Raises ``UserError`` as ``nodes`` does, and where noise is drawn and ``noise`` is None.
        """
        noise = NoNoise() if noise is None else noise
        grid = self.nodes(denoiser.schedule, start, stop)
        if not grid:
            return x
        (end,) = nodes(denoiser.schedule, [1.0])
        if stop < start:
            if start == 1 and grid[0] != end:
                x = x * (grid[0].sigma / end.sigma)
            return self.solve(denoiser, x, grid, cond, noise)
        x = self._rise(denoiser, x, grid, cond, noise)
        return x * (end.sigma / grid[-1].sigma) if stop == 1 and grid[-1] != end else x

    def _rise(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        """``solve`` on a rising grid, whose ends may be data and noise without signal."""
        if grid[0].sigma == 0:
            grid, s = grid[1:], grid[1]
            x0 = denoise(denoiser, s.alpha * x, s.t, cond, DATA)
            x = s.alpha * (2 * x - x0)
        if len(grid) == 1 or grid[-1].alpha > 0:
            return self.solve(denoiser, x, grid, cond, noise) if len(grid) > 1 else x
        *inner, t, s = grid
        if inner:
            x = self.solve(denoiser, x, [*inner, t], cond, noise)
        return ddim_step(x, denoise(denoiser, x, t.t, cond, s), t, s)
