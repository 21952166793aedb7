"""Guidance away from a worse version of the same model."""

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from oboro.denoiser import Denoises
from oboro.guidance.extrapolation import Extrapolated
from oboro.guidance.guidance import Guidance
from oboro.guidance.weight import CONSTANT, Weight
from oboro.sampler import Node
from oboro.schedule import Schedule


class Trained(Denoises, Protocol):
    """A denoiser that can be asked on another schedule than that of its training."""

    @property
    def network(self) -> nn.Module: ...

    def reschedule(self, schedule: Schedule) -> Denoises: ...


class Autoguidance(Guidance):
    """D' = D + (scale - 1) w(t) (D - D_weak) under the same condition.

    ``weak`` is a smaller model of the same data, or one that was trained for a shorter time: it errs in the same
    places, only further. Needs no dropped conditions and works without any. Karras et al. 2024 (arXiv:2406.02507,
    sec. 3). It is asked on the schedule of the denoiser, whatever its own was.
    """

    def __init__(self, weak: Trained, scale: float = 2.0, weight: Weight = CONSTANT):
        self.weak = weak
        self.scale = scale
        self.weight = weight

    @property
    def networks(self) -> Sequence[nn.Module]:
        return [self.weak.network]

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return Extrapolated(denoiser, self.weak.reschedule(denoiser.schedule), self.scale, self.weight)
