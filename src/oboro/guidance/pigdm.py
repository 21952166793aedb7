"""Guidance by the likelihood of a measurement, x given x_t taken for Gaussian."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.base.ranges import Positive
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.guidance.classifier import SILENCE
from oboro.guidance.ddnm import UNGUIDED
from oboro.guidance.gradient import GradientGuided, Pullback
from oboro.guidance.guidance import Guidance
from oboro.guidance.measuring import Measuring, correction, spread
from oboro.guidance.weight import CONSTANT, Weight
from oboro.measurement import measured
from oboro.sampler import Node
from oboro.schedule import expand_as


class PiGDM(Measuring):
    """D' = D + scale w(t) sigma² / alpha Jᵀ Aᵀ (r² A Aᵀ + sigma_y² I)⁻¹ (y - A D), J = ∂D/∂x_t.

    The score of p(y | x_t) where x given x_t is N(D, r² I), with r² = sigma² std² / (alpha² std² + sigma²), the
    variance for data N(., std² I): there D' is E[x | x_t, y] exactly, whatever A is. Song et al. 2023 (ICLR, "Pseudo-
    inverse-guided diffusion models", eq. 7 and 8), there with std = 1. Where alpha < e^-10 sigma, so at pure noise,
    sigma² / alpha Jᵀ is 0/0 and its limit r² is taken.

    ``std`` is that of the data. Below it, x is drawn too hard towards y while there is much noise, and leaves the data:
    1, as in the paper, is safe for pictures in [-1, 1] and right for standardised latents.
    """

    def __init__(self, std: Positive = 1.0, scale: float = 1.0, weight: Weight = CONSTANT, inside: Guidance = UNGUIDED):
        super().__init__(inside)
        self.std = std
        self.scale = scale
        self.weight = weight

    @property
    def follows_score(self) -> bool:
        return True

    @property
    def measures_latents(self) -> bool:
        return True

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return PiGDMDenoiser(self.inside(denoiser, grid), self.std, self.scale, self.weight)


class PiGDMDenoiser(GradientGuided):
    """The denoiser that ``PiGDM`` makes."""

    def __init__(self, denoiser: Denoises, std: float, scale: float, weight: Weight):
        super().__init__(denoiser)
        self.std = std
        self.scale = scale
        self.weight = weight

    def steer(self, conditional: Tensor, pullback: Pullback, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        alpha, sigma = self.schedule(t)
        moved = correction(measured(cond), conditional, spread(t, self.schedule, self.std))
        heard = alpha >= SILENCE * sigma
        # sigma² / (alpha r²) = alpha + sigma² / (alpha std²)
        factor = torch.where(heard, alpha + sigma**2 / (torch.where(heard, alpha, 1) * self.std**2), 0)
        moved = torch.where(expand_as(heard, x_t), expand_as(factor, x_t) * pullback(moved), moved)
        return conditional + self.scale * expand_as(self.weight(t, self.schedule), x_t) * moved
