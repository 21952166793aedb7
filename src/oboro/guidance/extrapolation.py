"""Two answers to one question, and the way from the worse through the better one."""

from copy import copy
from typing import Self

from torch import Tensor

from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.guidance.guidance import Guided
from oboro.guidance.weight import Weight
from oboro.schedule import expand_as


class Extrapolated(Guided):
    """D' = D + (scale - 1) w(t) (D - ``away``(x_t, t, cond)), ``scale`` a number or one for each sample (B,).

    ``away`` is not evaluated where w(t) is 0 for the whole batch. ``rescale`` = phi turns D' into
    (phi std(D) / std(D') + 1 - phi) D', with std over each sample.
    """

    def __init__(
        self,
        denoiser: Denoises,
        away: Denoises,
        scale: float | Tensor,
        weight: Weight,
        rescale: float = 0.0,
    ):
        super().__init__(denoiser)
        self.away = away
        self.scale = scale
        self.weight = weight
        self.rescale = rescale

    def towards(self, alpha: float | Tensor, sigma: float | Tensor) -> Self:
        other, away = super().towards(alpha, sigma), self.away.towards(alpha, sigma)
        if away is not self.away:
            other = copy(other) if other is self else other
            other.away = away
        return other

    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        factor = (self.scale - 1) * self.weight(t, self.schedule)
        if not factor.any():
            return conditional
        guided = conditional + expand_as(factor, x_t) * (conditional - self.away(x_t, t, cond))
        if self.rescale:
            std, wanted = (expand_as(v.flatten(1).std(1), x_t) for v in (guided, conditional))
            guided = (self.rescale * wanted / std + 1 - self.rescale) * guided
        return guided
