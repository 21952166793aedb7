"""What a task that draws samples is made of, for those who hold its parts against each other."""

from typing import Protocol

from oboro.conditioner import Conditioner
from oboro.denoiser import Denoiser
from oboro.guidance import Guidance
from oboro.loss import Loss
from oboro.sampler import Sampler


class Parts(Protocol):
    """What a run is made of: a ``Generation`` task has it all."""

    denoiser: Denoiser
    conditioner: Conditioner
    loss: Loss
    guidance: Guidance
    sampler: Sampler


def name(part: object) -> str:
    return type(part).__name__
