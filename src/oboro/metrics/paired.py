"""Metrics that compare each sample with what it was drawn after: the true picture, a hole, a measurement."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Len
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.settings import settings
from oboro.metrics.clustered import clustered_mean
from oboro.metrics.metric import Value
from oboro.modality import Image, Modality

Region = Literal["all", "hole", "outside"]
Regions = Annotated[Sequence[Region], Len(1, 3)]


SAMPLE = "x"  # the entry of a batch that is the sample


@dataclass(frozen=True, eq=False)
class Observation:
    """What a condition shows of each picture: ``y`` = ``see``(picture), (B, ...), in the range of the model.

    Attributes:
        y: what is shown.
        see: computes it of any pictures; None where it follows from draws for each one.
        entry: of the data, the pictures that it is computed of; ``SAMPLE``: the samples themselves.
        weight: where y says something, bool, of a shape that broadcasts with y; None: everywhere.
        picture: y as pictures (B, C', H, W) of the size of samples.
        smaller: y as smaller pictures, where that is what it is.
    """

    y: Tensor
    see: Callable[[Tensor], Tensor] | None
    picture: Tensor
    entry: str = SAMPLE
    weight: Tensor | None = None
    smaller: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Given:
    """What B samples were drawn after, in the range of the model.

    Attributes:
        truth: the pictures (B, C, H, W) that the conditions were made of.
        known: where the condition has their pixels, bool (B, 1, H, W); None without a hole.
        observations: what the conditions show of them.
    """

    truth: Tensor | None = None
    known: Tensor | None = None
    observations: Sequence[Observation] = ()

    def to(self, device: torch.device | str) -> "Given":
        """The same there."""
        observations = [moved(one, device) for one in self.observations]
        return Given(moved(self.truth, device), moved(self.known, device), observations)


def moved(node: Any, device: torch.device | str) -> Any:
    """A tensor, or a dataclass with its tensors, on ``device``."""
    if isinstance(node, Tensor):
        return node.to(device)
    if not isinstance(node, Observation):
        return node
    return replace(node, **{f.name: moved(getattr(node, f.name), device) for f in fields(node)})


@dataclass(frozen=True, eq=False)
class Groups:
    """Which of n samples belong together: ``condition`` (n,) is equal for draws of one condition, ``picture`` (n,) for
    conditions that were made of one picture."""

    condition: Tensor
    picture: Tensor

    @classmethod
    def apart(cls, n: int) -> "Groups":
        """Each sample alone."""
        return cls(torch.arange(n), torch.arange(n))


NEEDS = {  # of a paired metric: what is missing, and what there has to be
    "truth": (
        "the picture that each sample's condition was made of",
        "measure a model with conditioner=image, set measurement=mask_box or another, or give images=... with "
        "truth=<a folder of the same names>",
    ),
    "hole": (
        "a hole in each picture",
        "measure a model with hint=mask_box or another mask, or set measurement=mask_box or another mask",
    ),
    "exact": ("known pixels without noise", "set measurement_noise=0"),
    "observed": (
        "something that the condition shows and that can be computed of a sample",
        "measure a model with hint=downsample or another hint that is computed, or set measurement=downsample or "
        "another",
    ),
    "draws": ("several samples of each condition", "set draws=4 and n to a multiple of it"),
}


class Paired(ABC):
    """Numbers (B, ``width``) of each sample and what it was drawn after, and in the end of all of them. A small object
    of settings; it looks at no extractor.

    Attributes:
        needs: what there has to be, of ``NEEDS``.
        better: 1 where larger is better, -1 where smaller is, 0 where neither.
    """

    needs: frozenset[str] = frozenset({"truth"})
    better: int = 1

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """The short names of its numbers."""

    @property
    def width(self) -> int:
        """How many numbers of each sample are kept."""
        return len(self.names)

    def check(self, modality: Modality) -> None:
        """Before any sample is drawn: read what has to be read. Raises ``UserError`` for samples that it cannot
        compare."""
        if not isinstance(modality, Image):
            raise UserError(
                f"{type(self).__name__} compares pictures and the samples are {modality.noun}; leave it out of "
                "metrics=[...]."
            )

    @abstractmethod
    def rows(self, x: Tensor, given: Given) -> Tensor:
        """Of samples ``x`` (B, C, H, W) in the range of the model, stored and read again: (B, ``width``). NaN where a
        sample has no such number."""

    def values(self, rows: Tensor, groups: Groups) -> dict[str, Value]:
        """The mean over the n samples that have a number, with its 95 % interval over pictures, by short name.
        ``detail["left_out"]`` counts those that have none.

        Raises ``ValueError`` where none has one.
        """
        return {name: self.mean(rows[:, k], groups.picture) for k, name in enumerate(self.names)}

    def mean(self, values: Tensor, groups: Tensor) -> Value:
        defined = ~values.isnan()
        if not defined.any():
            raise ValueError("no sample has such a number")
        mean, interval = clustered_mean(values[defined], groups[defined])
        missing = len(values) - int(defined.sum())
        detail = {"left_out": missing} if missing else {}
        return Value(mean, self.better, interval, settings=settings(self), detail=detail)


class Regional(Paired):
    """A number of each of ``regions``: of the whole picture, in the hole that a condition leaves, and outside of it.

    Named ``short``, ``short_hole`` and ``short_outside``.
    """

    short: str

    def __init__(self, regions: Regions = ("all",)):
        self.regions = list(dict.fromkeys(regions))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"truth"} if self.regions == ["all"] else {"truth", "hole"})

    @property
    def names(self) -> Sequence[str]:
        return [self.short if region == "all" else f"{self.short}_{region}" for region in self.regions]

    def rows(self, x: Tensor, given: Given) -> Tensor:
        assert given.truth is not None
        return torch.stack([self.score(x, given.truth, where(region, x, given)) for region in self.regions], 1)

    @abstractmethod
    def score(self, x: Tensor, truth: Tensor, where: Tensor) -> Tensor:
        """(B,), float64, of pictures (B, C, H, W) ``where`` (B, 1, H, W) is True."""


def where(region: Region, x: Tensor, given: Given) -> Tensor:
    """The pixels of a region, bool (B, 1, H, W)."""
    everywhere = torch.ones_like(x[:, :1], dtype=torch.bool)
    if region == "all":
        return everywhere
    assert given.known is not None
    return given.known.expand_as(everywhere) == (region == "outside")


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """The mean (B,), float64, of ``values`` (B, C, ...) where it is True; NaN where nowhere."""
    where = where.expand_as(values).flatten(1)
    return torch.where(where, values.double().flatten(1), 0).sum(1) / where.sum(1)
