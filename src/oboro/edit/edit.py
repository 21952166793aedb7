"""What all edits share: (model, pictures, what they show, what they shall show) ↦ the edited pictures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from oboro.condition import Condition, Signal
from oboro.denoiser import Denoises
from oboro.generate import Guides, Watch, Watched, walk
from oboro.guidance import ClassifierFree, Guidance
from oboro.lesson import Lesson
from oboro.sampler import Node, Sampler


@dataclass(frozen=True)
class Model:
    """What draws. ``watch`` sees each x̂0 and its time."""

    denoiser: Denoises
    guidance: Guidance
    sampler: Sampler
    watch: Watch | None = None

    def nodes(self, start: float = 1.0, stop: float = 0.0) -> list[Node]:
        """Those that the sampler visits between two times."""
        return self.sampler.nodes(self.denoiser.schedule, start, stop)

    def evaluations(self, start: float = 1.0, stop: float = 0.0) -> int:
        return self.sampler.evaluations(self.denoiser.schedule, start, stop)

    def guided(self, guidance: Guidance, grid: Sequence[Node]) -> Denoises:
        guided = guidance(self.denoiser, grid)
        return guided if self.watch is None else Watched(guided, self.watch)


@dataclass(frozen=True)
class Pictures:
    """What is edited.

    Attributes:
        x: latents (B, ...).
        source: what they show; as the target on the device of ``x``.
        target: what they shall show.
        ids, seed: of the noise of each; a picture's edit is a function of them, of the picture and its conditions.
        other: latents (B, ...) of the pictures that an interpolation ends in.
        drawn: ``x`` is no photograph but what (``seed``, ``ids``) draw under ``source`` with the model's guidance.
    """

    x: Tensor
    source: Condition
    target: Condition
    ids: Sequence[int]
    seed: int
    other: Tensor | None = None
    drawn: bool = False


class TokenReader(Protocol):
    """A text encoder that knows its tokens."""

    def spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each text, the characters [start, end) of each token, (0, 0) for marks and padding."""


class Edit(ABC):
    """(model, pictures) ↦ latents (B ``frames``, ...), those of a picture one after the other.

    Attributes:
        frames: how many pictures are made of one.
        draws: whether it edits pictures that the model draws, too, and not photographs alone.
        joins: whether it leads from one picture to another (``Pictures.other``).
        asks_source: whether it asks the model about the picture as it is.
        words: whether it reads which words two texts share (``read``).
        source_guidance: the guidance under which the model is asked about the picture as it is.
    """

    frames: int = 1
    draws: bool = False
    joins: bool = False
    asks_source: bool = True
    words: bool = False

    def __init__(self, source_scale: float = 1.0):
        self.source_scale = source_scale

    @property
    def source_guidance(self) -> Guidance:
        return ClassifierFree(self.source_scale)

    @abstractmethod
    def __call__(self, model: Model, pictures: Pictures) -> Tensor: ...

    @abstractmethod
    def evaluations(self, model: Model) -> int:
        """How often ``model.watch`` is called, at most."""

    def can_ask(self, lesson: Lesson, drawn: bool) -> bool:
        """Whether it asks no more of a model than what this one was taught; ``drawn`` as in ``Pictures``."""
        return lesson.limit is None

    def check(self, model: Model, drawn: bool) -> None:  # noqa: B027
        """Raises ``UserError`` for a model whose parts cannot do it; ``drawn`` as in ``Pictures``."""

    def read(self, reader: TokenReader, sources: Sequence[str], targets: Sequence[str]) -> Mapping[str, Signal]:
        """What it takes of the texts themselves, for ``Condition.sampling`` of the target. Raises ``UserError``."""
        return {}


def walked(
    model: Model,
    pictures: Pictures,
    cond: Condition,
    guidance: Guides,
    *,
    x: Tensor | None = None,
    x_t: Tensor | None = None,
    start: float = 1.0,
    stop: float = 0.0,
    times: int = 1,
) -> Tensor:
    """``oboro.generate.walk`` of the pictures, or of ``times`` rows for each of them, with one noise for all these."""
    return walk(
        model.denoiser,
        guidance,
        model.sampler,
        ids=[i for i in pictures.ids for _ in range(times)],
        seed=pictures.seed,
        cond=cond,
        latent_shape=tuple(pictures.x.shape[1:]),
        device=pictures.x.device,
        x=x,
        x_t=x_t,
        start=start,
        stop=stop,
        watch=model.watch,
    )
