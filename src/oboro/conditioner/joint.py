"""Several conditions at once."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Len
from torch import nn

from oboro.base.draws import rand
from oboro.base.errors import UserError
from oboro.base.ranges import Share
from oboro.condition import Condition
from oboro.conditioner.conditioner import Batch, Conditioner, Single, share, training_metadata
from oboro.data import Population


class Joint(Conditioner):
    """The signals of all ``parts``, each dropped on a draw of its own, in the order of the parts.

    ``dropout`` is the chance that all are dropped together, drawn last: InstructPix2Pix drops 5 % of images, 5 % of
    texts and 5 % of both (Brooks et al. 2022, arXiv:2211.09800, sec. 3.2.1). Raises ``UserError`` for two parts that
    give a signal of one name.
    """

    def __init__(self, parts: Annotated[Mapping[str, Conditioner], Len(1, 64)], dropout: Share = 0.0):
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.dropout = share(dropout)
        (name, count), *_ = [*Counter(single.name for single in self.singles).most_common(1), ("", 0)]
        if count > 1:
            raise UserError(
                f"{count} parts of conditioner=joint give the signal {name}; leave all but one out, or give pictures "
                "each its conditioner.parts.<part>.name."
            )

    @property
    def singles(self) -> Sequence[Single]:
        return [single for part in self.parts.values() for single in part.singles]

    @property
    def num_classes(self) -> int:
        return max((part.num_classes for part in self.parts.values()), default=0)

    @property
    def prompts(self) -> Sequence[str]:
        return next((part.prompts for part in self.parts.values() if part.prompts), ())

    @property
    def dropped(self) -> set[str]:
        return set(self.gives) if self.dropout > 0 else super().dropped

    def forward(self, batch: Batch, generator: torch.Generator) -> Condition:
        cond = super().forward(batch, generator)
        if self.dropout == 0 or not cond:
            return cond
        n = len(next(iter(cond.signals.values())))
        mask = rand((n,), generator) < self.dropout
        return cond.map(lambda signal: signal.drop(mask.to(signal.device)))

    def metadata(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """Those of all parts, and of a ``population`` what belongs to one training image."""
        known = {k: v for part in self.parts.values() for k, v in part.metadata(ids, population).items()}
        return known if population is None else known | training_metadata(ids, population)

    def sample_batch(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        batch = {k: v for part in self.parts.values() for k, v in part.sample_batch(ids, population).items()}
        return batch | self.metadata(ids, population)

    def cache(self, texts: Sequence[str], folder: Path, done: Callable[[int], None] | None = None) -> None:
        readers = [single for single in self.singles if single.entry == "caption"]
        for single in readers:
            single.cache(texts, folder, done)
        if not readers:
            super().cache(texts, folder, done)

    def check(self, population: Population) -> None:
        for part in self.parts.values():
            part.check(population)
