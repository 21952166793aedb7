"""Guidance down the distance between a measurement and that of x̂0."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.base.ranges import NonNegative
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.guidance.ddnm import UNGUIDED
from oboro.guidance.gradient import GradientGuided, Pullback
from oboro.guidance.guidance import Guidance
from oboro.guidance.measuring import Measuring, predicted
from oboro.measurement import measured
from oboro.sampler import Node
from oboro.schedule import expand_as


class DPS(Measuring):
    """x_s ← x_s - zeta grad_{x_t} |y - A D(x_t)| at the end of each step from t to s, with the norm of each sample.

    Chung et al. 2023 (arXiv:2209.14687, algorithm 1 and app. D.1), as a change of x̂0 by zeta / c where x_s of the
    ancestral step (``sampler=ddim_ancestral``) has c x̂0: c = alpha_s (1 - SNR_t / SNR_s). Other samplers of order 1
    move x_s less. Not the posterior for any data: zeta is a length and no variance, ``sigma_y`` is not read, and the
    spread of x given x_t is left out (docs/inverse_problems.md has how far off it is). Each of ``steps`` moves x by up
    to zeta, so the right zeta falls with their number: 0.3 to 1 for 1000.
    """

    def __init__(self, zeta: NonNegative = 0.5, inside: Guidance = UNGUIDED):
        super().__init__(inside)
        self.zeta = zeta

    @property
    def follows_score(self) -> bool:
        return True

    @property
    def measures_latents(self) -> bool:
        return True

    @property
    def stepwise(self) -> bool:
        return True

    @property
    def moves_ends(self) -> bool:
        return True

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return DPSDenoiser(self.inside(denoiser, grid), self.zeta, grid)


class DPSDenoiser(GradientGuided):
    """The denoiser that ``DPS`` makes."""

    def __init__(self, denoiser: Denoises, zeta: float, grid: Sequence[Node]):
        super().__init__(denoiser)
        self.zeta = zeta
        self.grid = list(grid)

    def steer(self, conditional: Tensor, pullback: Pullback, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        given = measured(cond)
        here, adjoint = predicted(given, conditional)
        difference = given.y - here
        norm = difference.flatten(1).norm(dim=1)
        known = (norm > 0) & given.noise.isfinite()
        direction = expand_as(torch.where(known, 1 / torch.where(known, norm, 1), 0), difference) * difference
        times = t.tolist()
        share = {v: self._share(v) for v in set(times)}
        shares = torch.tensor([share[v] for v in times]).to(x_t)
        return conditional + expand_as(self.zeta / shares, x_t) * pullback(adjoint(direction))

    def _share(self, t: float) -> float:
        """c of the step that begins at ``t``; times of the grid may come back in float32."""
        alpha, sigma = (float(c) for c in self.schedule(torch.tensor(t, dtype=torch.float64)))
        s = next((node for node in self.grid if node.t < t - 1e-6), self.grid[-1])
        return s.alpha * (1 - (alpha * s.ratio / sigma) ** 2)
