"""Guidance is a map from a denoiser to a denoiser; no sampler knows about it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from oboro.denoiser import Denoises
from oboro.sampler import Node


class Guidance(ABC):
    """(denoiser, time grid) ↦ denoiser. Most kinds do not look at the grid."""

    @property
    def drops(self) -> bool:
        """Whether it asks the denoiser without a condition: then training must drop conditions now and then."""
        return False

    @abstractmethod
    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        """``grid`` are the nodes that the sampler is going to visit, the data at its end."""


class Unguided(Guidance):
    """The identity: D' = D."""

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return denoiser
