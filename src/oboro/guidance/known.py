"""What is known of a sample takes the place of the guess."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from oboro.condition import Condition, Image, Signal
from oboro.denoiser import Denoises
from oboro.guidance.guidance import Guidance, Guided
from oboro.sampler import Node

KNOWN = "known"  # what it is called in ``Condition.sampling``


class Known(Guidance):
    """D' = ``Condition.sampling["known"]``, a picture, where that is known; elsewhere the D of another ``guidance``.

    For models that learned the hole alone (``loss.region=hole``), whose answer outside of it means nothing.
    """

    def __init__(self, guidance: Guidance):
        self.guidance = guidance
        self.scale = getattr(guidance, "scale", 1)

    @property
    def reads(self) -> Mapping[str, type[Signal]]:
        return self.guidance.reads

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return Filled(self.guidance(denoiser, grid))


class Filled(Guided):
    """The denoiser that ``Known`` makes."""

    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return filled(conditional, cond.sampling[KNOWN])


def filled(x: Tensor, image: Signal) -> Tensor:
    """``x`` (B, C, ...) with the known pixels of an ``Image``, to the last bit."""
    assert isinstance(image, Image)
    return torch.where(image.known.to(x.device), image.x.to(x), x)
