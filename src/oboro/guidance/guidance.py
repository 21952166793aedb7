"""Guidance is a map from a denoiser to a denoiser; no sampler knows about it."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from typing import Any, Self

from torch import Tensor, nn

from oboro.condition import Condition, Signal
from oboro.denoiser import Denoises
from oboro.restore import Trained
from oboro.sampler import Node
from oboro.schedule import Schedule


class Guidance(ABC):
    """(denoiser, time grid) ↦ denoiser. Most kinds do not look at the grid."""

    @property
    def drops(self) -> bool:
        """Whether it compares the denoiser with what it is without a condition, or some of it."""
        return False

    def leaves_out(self, given: Collection[str]) -> set[str]:
        """Those of ``given`` without which it evaluates the denoiser, too: training must drop these signals now and
        then."""
        return set(given) if self.drops else set()

    @property
    def networks(self) -> Sequence[nn.Module]:
        """Networks of its own that it evaluates, each evaluation a cost like that of the denoiser's."""
        return []

    @property
    def compared(self) -> Sequence[Trained]:
        """Checkpoints whose denoisers it compares with the one that it guides."""
        return []

    @property
    def reads(self) -> Mapping[str, type[Signal]]:
        """The signals that the condition must have for it, besides of what the denoiser wants, and their kinds."""
        return {}

    @property
    def follows_score(self) -> bool:
        """Whether it adds a score to that of x_t, and so takes (alpha x̂0 - x_t) / sigma² for it."""
        return False

    @property
    def stepwise(self) -> bool:
        """Whether it means the steps of the time grid, and not only points."""
        return False

    @property
    def measures(self) -> bool:
        """Whether it draws towards a measurement, the signal ``measured`` of ``Condition.sampling``."""
        return False

    @property
    def measures_latents(self) -> bool:
        """Whether it does so in the latents of a codec, too, through the decoder."""
        return False

    @property
    def moves_ends(self) -> bool:
        """Whether it moves the end of a step by a length of its own, and so means steps of one evaluation."""
        return False

    @property
    def idle(self) -> Sequence[str]:
        """Settings that were made and change nothing beside the others."""
        return ()

    @property
    def learned_scale(self) -> float | None:
        """The scale of guidance that the network is asked for, which has learned to read it; None for none."""
        return None

    @property
    def target(self) -> int | None:
        """The class that every sample is drawn towards, whatever its own label is."""
        return None

    @abstractmethod
    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        """``grid`` are the nodes that the sampler is going to visit: falling to the data, or a part, or rising."""


class DenoiserWrapper(ABC):
    """A denoiser around another one, ``denoiser``."""

    def __init__(self, denoiser: Denoises):
        self.denoiser = denoiser

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @abstractmethod
    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor: ...

    @abstractmethod
    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]: ...

    def towards(self, alpha: float | Tensor, sigma: float | Tensor) -> Self:
        """The same around ``denoiser.towards(alpha, sigma)``."""
        denoiser = self.denoiser.towards(alpha, sigma)
        if denoiser is self.denoiser:
            return self
        other = copy(self)
        other.denoiser = denoiser
        return other


class Guided(DenoiserWrapper):
    """What a guidance makes: a denoiser that looks at the answer of another one and gives its own."""

    @abstractmethod
    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """D'(x_t, t, cond) from ``conditional`` = D(x_t, t, cond), all (B, ...)."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.steer(self.denoiser(x_t, t, cond), x_t, t, cond)

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
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
