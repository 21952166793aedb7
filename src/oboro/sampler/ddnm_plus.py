"""Steps that replace what was measured with noise, and draw as much less noise there."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Share, Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.measurement import Measured, Spectral, measured
from oboro.sampler.node import Node
from oboro.sampler.sampler import UNIFORM, Grid, Noise, Sampler, denoise
from oboro.schedule import expand_as


class DDNMPlus(Sampler):
    """x_s = alpha_s (D + A⁺ U Lambda Uᵀ (y - A D)) + gamma (eta z + sqrt(1 - eta²) (x_t - alpha_t D) / sigma_t).

    Along the singular vector of A with the singular value a, y / a has the noise sigma_y / a:
    lambda = min(1, sigma_s a / (alpha_s sigma_y)) and gamma² = sigma_s² - (alpha_s lambda sigma_y / a)², so that the
    noise of y and what is drawn are sigma_s together; elsewhere gamma = sigma_s. Wang et al. 2023 (arXiv:2212.00490,
    eq. 17 to 19 and app. I), with the steps of their program. The noise of y is believed to be independent of x_t, so
    samples are the posterior of no data, but near it.

    The measurement is ``Condition.sampling["measured"]``. Raises ``UserError`` for operators whose singular values are
    not known.
    """

    order = 1

    def __init__(self, steps: Steps = 100, eta: Share = 0.85, grid: Grid = UNIFORM):
        super().__init__(steps, grid)
        self.eta = eta

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def invertible(self) -> bool:
        return False

    @property
    def measures(self) -> bool:
        return True

    def check_measured(self, given: Measured) -> None:
        if given.decode is not None or not isinstance(given.operator, Spectral):
            kind = "a latent" if given.decode is not None else type(given.operator).__name__
            raise UserError(
                f"sampler=ddnm_plus asks for the singular values of what is measured and {kind} has none that are "
                "known; choose another sampler with guidance=pigdm."
            )

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        given = measured(cond)
        self.check_measured(given)
        operator: Spectral = given.operator  # type: ignore[assignment]  # checked above
        for t, s in pairwise(grid):
            x0 = denoise(denoiser, x, t.t, cond)
            eps = sqrt(1 - self.eta**2) * (x - t.alpha * x0) / t.sigma
            if self.eta > 0 and s.sigma > 0:
                eps = eps + self.eta * noise(x)
            step = Shares(given.noise.to(x), s)
            x0 = x0 + operator.pseudo_inverse(operator.filter(given.y - operator(x0), step.kept))
            less = operator.pseudo_inverse(operator.filter(operator(eps), step.less))
            x = s.alpha * x0 + s.sigma * eps + less
        return x


class Shares:
    """lambda and gamma - sigma_s at ``s``, functions of singular values, for ``noise`` sigma_y (B,)."""

    def __init__(self, noise: Tensor, s: Node):
        self.noise = noise
        self.s = s

    def _heard(self, a: Tensor) -> Tensor:
        """alpha_s sigma_y, of the shape of (B, ...)."""
        return self.s.alpha * expand_as(self.noise, a)

    def kept(self, a: Tensor) -> Tensor:
        heard = self._heard(a)
        return torch.where(heard > 0, self.s.sigma * a / torch.where(heard > 0, heard, 1), 1.0).clamp(max=1)

    def less(self, a: Tensor) -> Tensor:
        known = torch.where(expand_as(self.noise.isfinite(), a), self.kept(a) * self._heard(a), 0)
        there = known / torch.where(a > 0, a, 1)
        return (self.s.sigma**2 - there**2).clamp(min=0).sqrt() - self.s.sigma
