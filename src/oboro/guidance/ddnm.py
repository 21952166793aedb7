"""Guidance that replaces what was measured in x̂0."""

from collections.abc import Sequence

from torch import Tensor

from oboro.base.ranges import Positive
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.guidance.guidance import Guidance, Guided, Unguided
from oboro.guidance.measuring import Measuring, correction, spread
from oboro.measurement import measured
from oboro.sampler import Node

UNGUIDED = Unguided()


class DDNM(Measuring):
    """D' = D + A⁺ (y - A D), so that A D' = y: Wang et al. 2023 (arXiv:2212.00490, eq. 8), without any gradient.

    Noise sigma_y in y is weighed against the variance of x given x_t, r² = sigma² std² / (alpha² std² + sigma²):

        D' = D + Aᵀ (A Aᵀ + (sigma_y² / r²) I)⁻¹ (y - A D),

    the step of DiffPIR towards the data (Zhu et al. 2023, arXiv:2305.08995, eq. 11), which works under any sampler.
    DDNM+ of the paper scales by min(1, sigma_s / (alpha_s sigma_y)) instead and draws less fresh noise where y has
    some: that is ``sampler=ddnm_plus``. For data N(., std² I) the D' above is the posterior mean exactly; for others it
    lacks what the measured numbers say of the rest, which only the following steps bring.
    """

    def __init__(self, std: Positive = 1.0, inside: Guidance = UNGUIDED):
        super().__init__(inside)
        self.std = std

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return DDNMDenoiser(self.inside(denoiser, grid), self.std)


class DDNMDenoiser(Guided):
    """The denoiser that ``DDNM`` makes."""

    def __init__(self, denoiser: Denoises, std: float):
        super().__init__(denoiser)
        self.std = std

    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return conditional + correction(measured(cond), conditional, spread(t, self.schedule, self.std))
