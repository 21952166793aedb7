"""Guidance is a map from a denoiser to a denoiser: no sampler knows about it.

Steering in eps, v or x̂0 is the same map, because c_skip and c_out are shared by both branches; it is done on x̂0.
"""

from torch import Tensor

from oboro.denoiser import Cond, Denoises
from oboro.schedule import Schedule


class Unguided:
    """The identity: D' = D."""

    def __call__(self, denoiser: Denoises) -> Denoises:
        return denoiser


class ClassifierFree:
    """D' = D(x_t, ∅) + scale (D(x_t, cond) - D(x_t, ∅)).

    Ho & Salimans 2022 (arXiv:2207.12598, eq. 6 with scale = 1 + w). scale = 1 is the conditional model at the cost of
    one evaluation, scale = 0 the unconditional one. Needs a model trained with its condition dropped now and then.
    """

    def __init__(self, scale: float = 2.0):
        self.scale = scale

    def __call__(self, denoiser: Denoises) -> Denoises:
        return denoiser if self.scale == 1 else ClassifierFreeDenoiser(denoiser, self.scale)


class ClassifierFreeDenoiser:
    """The denoiser that ``ClassifierFree`` makes; an empty condition means the dropped one."""

    def __init__(self, denoiser: Denoises, scale: float):
        self.denoiser = denoiser
        self.scale = scale

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        unconditional = self.denoiser(x_t, t, {})
        return unconditional + self.scale * (self.denoiser(x_t, t, cond) - unconditional)
