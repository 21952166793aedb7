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
    """The signals of all ``parts``, each dropped on a draw of its own, in the order of the parts. ``dropout`` is the
    chance that all are dropped together, drawn last.

    With ``exclusive`` one number u ~ U(0, 1) decides: a part's ``dropout`` is the share of samples that lose it and
    nothing else, and ``dropout`` of those that lose all. InstructPix2Pix drops 5 % of texts, 5 % of both and 5 % of
    images (Brooks et al. 2022, arXiv:2211.09800, sec. 3.2.1): with {text, image} no text where u < 0.1, no image where
    0.05 ≤ u < 0.15. Independent draws of 0.05 would leave both out more often, and either alone less.

    Raises ``UserError`` for two parts that give a signal of one name, and for ``exclusive`` shares of more than 1.
    """

    def __init__(
        self,
        parts: Annotated[Mapping[str, Conditioner], Len(1, 64)],
        dropout: Share = 0.0,
        exclusive: bool = False,
    ):
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.dropout = share(dropout)
        self.exclusive = exclusive
        total = sum(single.dropout for single in self.singles) + dropout
        if exclusive and total > 1 + 1e-9:
            raise UserError(
                f"the dropouts of conditioner=joint are {total:g} together, and exclusive ones are shares of the same "
                "samples; lower conditioner.dropout or those of the parts."
            )
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
        if self.exclusive:
            return self._one_of(Condition({s.name: s.drawn(batch, generator) for s in self.singles}), generator)
        cond = super().forward(batch, generator)
        if self.dropout == 0 or not cond:
            return cond
        n = len(next(iter(cond.signals.values())))
        mask = rand((n,), generator) < self.dropout
        return cond.map(lambda signal: signal.drop(mask.to(signal.device)))

    def _one_of(self, cond: Condition, generator: torch.Generator) -> Condition:
        """``cond`` with the first signal, all of them, the second signal, … or none dropped, as u falls into
        consecutive intervals."""
        if not cond:
            return cond
        u = rand((len(next(iter(cond.signals.values()))),), generator)
        first, *others = [(single.name, single.dropout) for single in self.singles]
        lost, end = {}, 0.0
        for name, width in (first, (None, self.dropout), *others):
            lost[name], end = (u >= end) & (u < end + width), end + width
        masks = {name: mask | lost[None] for name, mask in lost.items() if name is not None}
        return Condition({k: signal.drop(masks[k].to(signal.device)) for k, signal in cond.signals.items()})

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
