"""UniPC: a predictor in lambda, and a corrector that costs no evaluation."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from math import expm1
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.node import Node, ddim_step, steppable
from oboro.sampler.quadrature import POINTS, WEIGHTS
from oboro.sampler.sampler import UNIFORM, Grid, Noise, Sampler, denoise

Order = Annotated[int, Interval(ge=1, le=3)]


class UniPC(Sampler):
    """x_s = sigma_s/sigma_t x_t + alpha_s ((1 - e^{-h}) D_t + B sum_m a_m (D_m - D_t) / r_m).

    r_m = (lambda_m - lambda_t) / h for the p - 1 evaluations before t, and in the corrector also for D at the predicted
    x_s (r = 1), which the next step needs anyway. The a_m make the step exact where D is a polynomial in lambda:
    sum_m a_m r_m^{k-1} = h/B ∫_0^1 e^{-h (1 - r)} r^k dr for k = 1, 2, …; a single unknown is 1/2. B(h) = h (``b1``,
    the paper's B_1) or 1 - e^{-h} (B_2), which matters for that single unknown alone. Zhao et al. 2023
    (arXiv:2302.04867, algorithms 1, 2 and app. on data prediction). ``solver_order`` is p, the
    order of convergence p + 1. Steps without enough history are of lower order; the last one, into data, is DDIM's and
    is not corrected.
    """

    def __init__(
        self,
        steps: Steps = 20,
        solver_order: Order = 3,
        b1: bool = False,
        grid: Grid = UNIFORM,
    ):
        super().__init__(steps, grid)
        if solver_order not in (1, 2, 3):
            raise UserError(f"UniPC has orders 1 to 3 and got {solver_order}; change sampler.solver_order.")
        self.solver_order = solver_order
        self.b1 = b1

    @property
    def order(self) -> int:
        return self.solver_order + 1

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        history: list[tuple[Node, Tensor]] = []  # (node, D), the newest first
        before: Tensor | None = None  # the corrected x at the node of history[0]
        for t, s in pairwise(grid):
            x0 = denoise(denoiser, x, t.t, cond)
            if before is not None:
                x = self._step(before, history, t, x0)
            history = [(t, x0), *history][: self.solver_order] if t.alpha > 0 else []
            before = x if steppable(t, s) else None
            x = self._step(x, history, s, None) if steppable(t, s) else ddim_step(x, x0, t, s)
        return x

    def _step(self, x: Tensor, history: Sequence[tuple[Node, Tensor]], s: Node, x0_s: Tensor | None) -> Tensor:
        """From ``x`` at the newest node of ``history`` to ``s``; corrected by D at s where it is given."""
        (t, x0), *earlier = history
        h = s.half_log_snr - t.half_log_snr
        scale = h if self.b1 else -expm1(-h)
        ratios = [(node.half_log_snr - t.half_log_snr) / h for node, _ in earlier]
        values = [value for _, value in earlier]
        if x0_s is not None:
            ratios, values = [*ratios, 1.0], [*values, x0_s]
        weights = [scale * a / r for r, a in zip(ratios, coefficients(tuple(ratios), h, scale), strict=True)]
        x_s = s.sigma / t.sigma * x + s.alpha * -expm1(-h) * x0
        for weight, value in zip(weights, values, strict=True):
            x_s = torch.add(x_s, value - x0, alpha=s.alpha * weight)
        return x_s


@lru_cache(maxsize=1024)  # every chunk of samples walks the same grid
def coefficients(ratios: tuple[float, ...], h: float, scale: float) -> list[float]:
    """a of ``UniPC`` for the given r_m and B(h) = ``scale``; the integrals by Gauss-Legendre quadrature."""
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    r, density = POINTS, WEIGHTS * np.exp(-h * (1 - POINTS))
    powers = np.array([[m ** (k - 1) for m in ratios] for k in range(1, len(ratios) + 1)])
    moments = [h / scale * float((density * r**k).sum()) for k in range(1, len(ratios) + 1)]
    return np.linalg.solve(powers, moments).tolist()
