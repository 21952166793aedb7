"""Adams-Bashforth methods on d(x / alpha) / d(sigma / alpha) = eps̃: LMS, DEIS, iPNDM, PNDM.

With z = x / alpha and rho = sigma / alpha a step is z_s = z_t + sum_j w_j eps̃_j over the last evaluations. The w_j
add up to rho_s - rho_t; so it is the step of DDIM and sum_j w_j (eps̃_j - eps̃_t), which keeps its digits where alpha_t
is small. Where no signal is left, rho above ``BLIND``, the step is DDIM's and leaves nothing to remember: z would be
all rounding error, and no polynomial in rho reaches down from there.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import log
from typing import Annotated

import numpy as np
from annotated_types import Interval
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.node import Node, ddim_step, nodes
from oboro.sampler.quadrature import POINTS, WEIGHTS
from oboro.sampler.sampler import UNIFORM, Grid, Noise, Sampler, denoise
from oboro.schedule import Schedule

BLIND = 1000.0
ADAMS_BASHFORTH = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))

Order = Annotated[int, Interval(ge=1, le=4)]


def blind(t: Node, s: Node) -> bool:
    """Whether one end of the step has no signal to speak of."""
    return t.ratio > BLIND or s.ratio > BLIND


def eps_of(x: Tensor, x0: Tensor, t: Node) -> Tensor:
    """eps̃ = (x_t - alpha_t x̂0) / sigma_t."""
    return (x - t.alpha * x0) / t.sigma


def lagrange_weights(
    known: Sequence[float], a: float, b: float, measure: Callable[[np.ndarray], np.ndarray]
) -> list[float]:
    """∫_a^b L_j(u) measure(u) du for the Lagrange polynomials L_j of the points ``known``, by Gauss-Legendre."""
    u = a + (b - a) * POINTS
    weights = []
    for j, uj in enumerate(known):
        others = [ui for i, ui in enumerate(known) if i != j]
        basis = np.prod([(u - ui) / (uj - ui) for ui in others], axis=0) if others else np.ones_like(u)
        weights.append(float((b - a) * (WEIGHTS * measure(u) * basis).sum()))
    return weights


class Multistep(Sampler):
    """``solver_order`` evaluations are used; the first steps, with less to remember, are of lower order."""

    def __init__(self, steps: Steps, solver_order: Order, grid: Grid = UNIFORM):
        super().__init__(steps, grid)
        if not 1 <= solver_order <= 4:
            name = type(self).__name__
            raise UserError(f"{name} has orders 1 to 4 and got {solver_order}; change sampler.solver_order.")
        self.solver_order = solver_order

    @property
    def order(self) -> int:
        return self.solver_order

    @abstractmethod
    def weights(self, t: Node, s: Node, known: Sequence[Node]) -> list[float]:
        """w_j of eps̃ at the nodes ``known``, the newest, ``t``, first; they add up to rho_s - rho_t."""

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        history: list[tuple[Node, Tensor]] = []
        for t, s in pairwise(grid):
            x0 = denoise(denoiser, x, t.t, cond)
            if blind(t, s):
                x = ddim_step(x, x0, t, s)
                continue
            history = [(t, eps_of(x, x0, t)), *history][: self.solver_order]
            weights = self.weights(t, s, [node for node, _ in history])
            x = ddim_step(x, x0, t, s)
            for w, (_, eps) in zip(weights[1:], history[1:], strict=True):
                x = x + s.alpha * w * (eps - history[0][1])
        return x


class LMS(Multistep):
    """w_j = ∫ L_j(rho) drho, exact for eps̃ a polynomial in rho = sigma / alpha: linear multistep.

    The LMS of k-diffusion, which EDM's authors and diffusers use; rho-AB of DEIS (arXiv:2204.13902, sec. 3).
    """

    def __init__(self, steps: Steps = 20, solver_order: Order = 4, grid: Grid = UNIFORM):
        super().__init__(steps, solver_order, grid)

    def weights(self, t: Node, s: Node, known: Sequence[Node]) -> list[float]:
        return lagrange_weights([k.ratio for k in known], t.ratio, s.ratio, np.ones_like)


class DEIS(Multistep):
    """w_j = ∫ L_j(log rho) drho: eps̃ a polynomial in log rho, integrated exactly. The last step, into data, is DDIM's.

    Zhang & Chen 2023 (arXiv:2204.13902, eq. 15, in the variable log rho that diffusers uses).
    """

    def __init__(self, steps: Steps = 20, solver_order: Order = 3, grid: Grid = UNIFORM):
        super().__init__(steps, solver_order, grid)

    def weights(self, t: Node, s: Node, known: Sequence[Node]) -> list[float]:
        if s.sigma == 0:
            return [s.ratio - t.ratio, *[0.0] * (len(known) - 1)]
        return lagrange_weights([log(k.ratio) for k in known], log(t.ratio), log(s.ratio), np.exp)


class IPNDM(Multistep):
    """w_j = (rho_s - rho_t) c_j with the c_j of Adams and Bashforth for equal steps, whatever the steps are.

    Zhang & Chen 2023 (arXiv:2204.13902, eq. 35-38). On a grid uniform in rho it has its full order, on any other smooth
    one order 2 at most: the c_j then extrapolate to the middle of the step and no further.
    """

    def __init__(self, steps: Steps = 20, solver_order: Order = 4, grid: Grid = UNIFORM):
        super().__init__(steps, solver_order, grid)

    @property
    def order(self) -> int:
        return min(self.solver_order, 2)

    def weights(self, t: Node, s: Node, known: Sequence[Node]) -> list[float]:
        return [(s.ratio - t.ratio) * c for c in ADAMS_BASHFORTH[len(known) - 1]]


class PNDM(Sampler):
    """Adams-Bashforth with four eps̃ like ``IPNDM``, begun by three pseudo Runge-Kutta steps of four evaluations each.

    Liu et al. 2022 (arXiv:2202.09778, algorithm 2, eq. 11-13). The stages of a Runge-Kutta step lie at its two ends
    and in the middle of t, and each starts from x_t. Of order 2 on smooth grids, for the reason that ``IPNDM`` gives.
    """

    order = 2
    warm_up = 3

    def __init__(self, steps: Steps = 20, grid: Grid = UNIFORM):
        super().__init__(steps, grid)

    def evaluations(self, schedule: Schedule, start: float = 1.0, stop: float = 0.0) -> int:
        pairs = list(pairwise(self.nodes(schedule, start, stop)))
        begun = [s for t, s in pairs if t.sigma > 0 and not blind(t, s)][: self.warm_up]
        return len(pairs) + 3 * sum(s.sigma > 0 for s in begun)

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        history: list[Tensor] = []
        for t, s in pairwise(grid):
            x0 = denoise(denoiser, x, t.t, cond)
            if blind(t, s):
                x = ddim_step(x, x0, t, s)
                continue
            history = [eps_of(x, x0, t), *history][:4]
            if len(history) <= self.warm_up and s.sigma > 0:
                change = self._runge_kutta(denoiser, x, x0, t, s, cond)
            else:
                coefficients = ADAMS_BASHFORTH[len(history) - 1]
                change = sum((c * (e - history[0]) for c, e in zip(coefficients, history, strict=True)), 0 * x0)
            x = moved(x, x0, change, t, s)
        return x

    @staticmethod
    def _runge_kutta(denoiser: Denoises, x: Tensor, x0: Tensor, t: Node, s: Node, cond: Condition) -> Tensor:
        """(e_1 + 2 e_2 + 2 e_3 + e_4) / 6 - e_1 of the classical stages."""
        (m,) = nodes(denoiser.schedule, [(t.t + s.t) / 2])
        eps = eps_of(x, x0, t)

        def stage(change: Tensor, at: Node) -> Tensor:
            u = moved(x, x0, change, t, at)
            return eps_of(u, denoise(denoiser, u, at.t, cond), at) - eps

        second = stage(0 * x0, m)
        third = stage(second, m)
        fourth = stage(third, s)
        return (2 * second + 2 * third + fourth) / 6


def moved(x: Tensor, x0: Tensor, change: Tensor, t: Node, s: Node) -> Tensor:
    """The step of DDIM with eps̃ + ``change`` in place of eps̃."""
    return ddim_step(x, x0, t, s) + s.alpha * (s.ratio - t.ratio) * change
