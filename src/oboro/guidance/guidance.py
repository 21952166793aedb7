"""Guidance is a map from a denoiser to a denoiser; no sampler knows about it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from oboro.denoiser import Cond, Denoises
from oboro.sampler import Node
from oboro.schedule import Schedule


class Guidance(ABC):
    """(denoiser, time grid) ↦ denoiser. Most kinds do not look at the grid."""

    @property
    def drops(self) -> bool:
        """Whether it asks the denoiser without a condition: then training must drop conditions now and then."""
        return False

    @property
    def networks(self) -> Sequence[nn.Module]:
        """Networks of its own that it evaluates, each evaluation a cost like that of the denoiser's."""
        return []

    @property
    def keys(self) -> set[str]:
        """What the condition must have for it, besides of what the denoiser wants."""
        return set()

    @property
    def follows_score(self) -> bool:
        """Whether it adds a score to that of x_t, and so takes (alpha x̂0 - x_t) / sigma² for it."""
        return False

    @property
    def stepwise(self) -> bool:
        """Whether it means the steps of the time grid, and not only points."""
        return False

    @abstractmethod
    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        """``grid`` are the nodes that the sampler is going to visit, the data at its end."""


class Guided(ABC):
    """What a guidance makes: a denoiser that looks at the answer of another one and gives its own."""

    def __init__(self, denoiser: Denoises):
        self.denoiser = denoiser

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @abstractmethod
    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """D'(x_t, t, cond) from ``conditional`` = D(x_t, t, cond), all (B, ...)."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.steer(self.denoiser(x_t, t, cond), x_t, t, cond)

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """D' and the v of D: guidance moves the mean of a step and leaves its variance that of the condition."""
        conditional, v = self.denoiser.with_variance(x_t, t, cond)
        return self.steer(conditional, x_t, t, cond), v


def beside(model: Any, x: Tensor) -> Any:
    """``model`` in the type and on the device of ``x``; what has no weights is as it is."""
    return model.to(x.device, x.dtype) if isinstance(model, nn.Module) else model


class Unguided(Guidance):
    """The identity: D' = D."""

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return denoiser
