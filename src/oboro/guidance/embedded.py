"""Guidance that a student has learned: its scale is a number that the network reads."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from oboro.base.ranges import Scale
from oboro.condition import Condition, GuidanceScale
from oboro.denoiser import Denoises
from oboro.guidance.guidance import DenoiserWrapper, Guidance
from oboro.sampler import Node

NAME = "guidance_scale"


def at_scale(cond: Condition, value: Tensor) -> Condition:
    """``cond`` with the scale ``value`` (B,) of guidance."""
    return replace(cond, signals={**cond.signals, NAME: GuidanceScale(value)})


def scale_of(cond: Condition) -> Tensor:
    """The scale (B,) of guidance that a condition has."""
    signal = cond.signals[NAME]
    assert isinstance(signal, GuidanceScale)
    return signal.value


class Embedded(Guidance):
    """D' = D(x_t, cond, ``scale``), one evaluation of a network that reads the scale of guidance as a number.

    Meng et al. 2023 (arXiv:2210.03142, sec. 3.1), latent consistency models (arXiv:2310.04378, sec. 4.2), whose omega
    is ``scale`` - 1. Students learn it with ``loss.teacher.guidance_scales`` or ``loss.guidance_scales``; others know
    no scale (``oboro.task.guidance_scale``).
    """

    def __init__(self, scale: Scale = 4.0):
        self.scale = scale

    @property
    def learned_scale(self) -> float:
        return self.scale

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return EmbeddedDenoiser(denoiser, self.scale)


class EmbeddedDenoiser(DenoiserWrapper):
    """The denoiser that ``Embedded`` makes."""

    def __init__(self, denoiser: Denoises, scale: float):
        super().__init__(denoiser)
        self.scale = scale

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.denoiser(x_t, t, at_scale(cond, torch.full_like(t, self.scale)))

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        return self.denoiser.with_variance(x_t, t, at_scale(cond, torch.full_like(t, self.scale)))
