"""Conditions: what a network reads beside a noisy sample and its noise level, and what guidance goes away from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError

ROUNDING = 1e-6  # of times, which may come in single precision


@dataclass(frozen=True, eq=False)
class Signal(ABC):
    """One thing that a network reads, for each sample of a batch: tensors (B, ...) alone.

    A kind of one's own is a frozen dataclass (``eq=False``) of tensors that says in ``drop`` what no signal is.

    Attributes:
        stays: whether guidance away from the condition as a whole keeps it. A network answers without it as the one
            that it was made of, so training need not drop it for guidance in it alone.
    """

    stays: ClassVar[bool] = False

    @abstractmethod
    def drop(self, mask: Tensor) -> Self:
        """The same without the signal of the samples where ``mask`` (B,), bool, is True."""

    def at(self, t: Tensor) -> Self:
        """What a network sees of it at the times ``t`` (B,)."""
        return self

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def map(self, f: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, **{name: f(tensor) for name, tensor in self.tensors().items()})

    def to(self, device: torch.device | str) -> Self:
        return self.map(lambda tensor: tensor.to(device))

    def rows(self, ids: Tensor | Sequence[int] | slice) -> Self:
        """The samples ``ids``."""
        return self.map(lambda tensor: tensor[ids])

    def expand(self, n: int) -> Self:
        """The only sample ``n`` times."""
        return self.map(lambda tensor: tensor.expand(n, *tensor.shape[1:]))

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors().values())).device

    def __len__(self) -> int:
        """B."""
        return len(next(iter(self.tensors().values())))

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        theirs = other.tensors()
        return all(torch.equal(tensor, theirs[name]) for name, tensor in self.tensors().items())


@dataclass(frozen=True, eq=False)
class Label(Signal):
    """The class ``index`` (B,), int64; -1 is no label."""

    index: Tensor

    def drop(self, mask: Tensor) -> "Label":
        return Label(torch.where(mask, -1, self.index))


@dataclass(frozen=True, eq=False)
class Text(Signal):
    """``tokens`` (B, L, D) of a text, of which those count where ``mask`` (B, L), bool, is True, and one vector
    ``pooled`` (B, P) for the whole; a mask without any True is no text."""

    tokens: Tensor
    mask: Tensor
    pooled: Tensor

    def drop(self, mask: Tensor) -> "Text":
        return replace(self, mask=self.mask & ~mask[:, None])


@dataclass(frozen=True, eq=False)
class Image(Signal):
    """A picture ``x`` (B, C, ...) in [-1, 1] as large as the sample, and where it is ``known``, bool.

    ``known`` is (B,), or (B, 1, ...) for a picture with a hole in it. Pixels in the hole are zeros, and so are those of
    a sample that has no picture.
    """

    x: Tensor
    known: Tensor

    def drop(self, mask: Tensor) -> Self:
        x = torch.where(mask.view(-1, *[1] * (self.x.ndim - 1)), 0.0, self.x)
        return replace(self, x=x, known=self.known & ~mask.view(-1, *[1] * (self.known.ndim - 1)))

    @property
    def has_hole(self) -> bool:
        """Whether ``known`` says it of every pixel."""
        return self.known.ndim > 1


@dataclass(frozen=True, eq=False)
class Control(Image):
    """A picture that a ControlNet reads, as large as the data, and how much it counts: ``strength`` (B,) at times from
    ``first`` (B,) to ``last`` (B,), both included, and nothing at others."""

    strength: Tensor
    first: Tensor
    last: Tensor

    stays: ClassVar[bool] = True

    def at(self, t: Tensor) -> Self:
        inside = (t >= self.first - ROUNDING) & (t <= self.last + ROUNDING)
        return replace(self, strength=torch.where(inside, self.strength, 0.0))


@dataclass(frozen=True, eq=False)
class End(Signal):
    """Where on the flow a flow map lands: ``angle`` (B,), 2/pi arctan(sigma / alpha), from 0 for data to 1 for noise.

    The denoiser gives it (``oboro.denoiser.Denoiser.towards``), and no conditioner.
    """

    angle: Tensor

    stays: ClassVar[bool] = True

    def drop(self, mask: Tensor) -> Self:
        return self


@dataclass(frozen=True, eq=False)
class GuidanceScale(Signal):
    """The scale ``value`` (B,), 1 or more, of the guidance whose result a student gives by itself; 1 is no guidance.

    ``oboro.guidance.Embedded`` gives it, and no conditioner.
    """

    value: Tensor

    stays: ClassVar[bool] = True

    @property
    def angle(self) -> Tensor:
        """1 - 1 / value (B,), from 0 for no guidance to 1."""
        return 1 - 1 / self.value

    def drop(self, mask: Tensor) -> Self:
        return replace(self, value=torch.where(mask, 1.0, self.value))


NUMBERS = ("end", "guidance_scale")  # the signals that are one number each, whose ``angle`` networks read
Signals = Mapping[str, Signal]  # what a network is called with


@dataclass(frozen=True)
class Condition:
    """The condition of a batch of samples.

    Attributes:
        signals: what the network reads, by name; a name that is missing is a signal that is dropped for all samples.
        away: what guidance goes away from, in the place of no signal of that name (a negative prompt).
        sampling: what guidance and samplers read and no network does.
    """

    signals: Signals = field(default_factory=dict)
    away: Signals = field(default_factory=dict)
    sampling: Signals = field(default_factory=dict)

    @classmethod
    def of(cls, **signals: Signal) -> "Condition":
        """``Condition.of(label=Label(index))``."""
        return cls(signals)

    def map(self, f: Callable[[Signal], Signal]) -> "Condition":
        parts = (self.signals, self.away, self.sampling)
        return Condition(*({name: f(signal) for name, signal in part.items()} for part in parts))

    def to(self, device: torch.device | str) -> "Condition":
        return self.map(lambda signal: signal.to(device))

    def rows(self, ids: Tensor | Sequence[int] | slice) -> "Condition":
        return self.map(lambda signal: signal.rows(ids))

    def only(self, *names: str) -> "Condition":
        """Of the signals those of ``names``."""
        return replace(self, signals={k: signal for k, signal in self.signals.items() if k in names})

    def without(self, *names: str) -> "Condition":
        """The signals ``names`` taken away: in their place is what ``away`` has by that name, or nothing."""
        kept = {k: signal for k, signal in self.signals.items() if k not in names}
        return replace(self, signals=kept | {k: self.away[k] for k in names if k in self.away})

    def __len__(self) -> int:
        """How many signals there are; an empty condition is false."""
        return len(self.signals)


def kinds_read(network: nn.Module) -> Mapping[str, type[Signal]]:
    """The signals that ``network`` reads, by name: its ``reads``. One that declares nothing reads nothing."""
    return getattr(network, "reads", {})


def check_read(signals: Signals, network: nn.Module) -> None:
    """Raises ``UserError`` for a signal that ``network`` does not read, or one of another kind than it reads."""
    reads = kinds_read(network)
    for name, signal in signals.items():
        if name not in reads:
            others = f"reads {', '.join(reads)} alone" if reads else "reads no condition"
            raise UserError(
                f"{type(network).__name__} {others} and was given {name}; leave {name} out, or take a network and a "
                f"conditioner that were trained with it."
            )
        if not isinstance(signal, reads[name]):
            kind = f"{reads[name].__module__}.{reads[name].__qualname__}"
            raise UserError(
                f"{type(network).__name__} reads {name} as {kind} and was given {type(signal).__name__}; give it that "
                "kind."
            )
