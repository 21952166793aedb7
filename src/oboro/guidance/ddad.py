"""Guidance that draws a reconstruction towards what it is of."""

from collections.abc import Sequence

from torch import Tensor

from oboro.base.ranges import NonNegative
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.guidance.guidance import Guidance, Guided, Unguided
from oboro.guidance.measuring import Measuring, correction
from oboro.measurement import measured
from oboro.sampler import Node
from oboro.schedule import expand_as

UNGUIDED = Unguided()


class DDAD(Measuring):
    """D' = D + min(w sigma², 1) A⁺ (y - A D), w = ``scale``: with A = I and y a sample that is looked for anomalies,
    Mousakhan et al. 2023 (arXiv:2305.15956, eq. 5-8).

    Their eps' = eps - w sigma (y_t - x_t), where y_t = alpha y + sigma eps, is D' = D + w sigma² (y - D): much in the
    noise, where the layout is decided, and nothing near data, where an anomaly would be copied. More than the whole
    difference would overshoot.
    """

    def __init__(self, scale: NonNegative = 1.0, inside: Guidance = UNGUIDED):
        super().__init__(inside)
        self.scale = scale

    @property
    def measures_latents(self) -> bool:
        return True

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return DDADDenoiser(self.inside(denoiser, grid), self.scale)


class DDADDenoiser(Guided):
    """The denoiser that ``DDAD`` makes."""

    def __init__(self, denoiser: Denoises, scale: float):
        super().__init__(denoiser)
        self.scale = scale

    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        alpha, sigma = self.schedule(t)
        weight = (self.scale * sigma**2).clamp(max=1)
        return conditional + expand_as(weight, x_t) * correction(measured(cond), conditional, alpha.square() + 1)
