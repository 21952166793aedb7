"""How much the samples of one condition differ."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from oboro.metrics.metric import Value
from oboro.metrics.paired import Given, Groups, Paired, Region, where
from oboro.modality import Modality


class Diversity(Paired):
    """The mean over conditions, and over pairs of samples of one, of the root of the mean squared difference of their
    pixels in [0, 1], ``diversity``; of ``region`` = hole, where known pixels are equal, ``diversity_hole``.

    Neither more nor less is better: of a Gaussian posterior of standard deviation s the right one is about s √2.
    """

    better = 0

    def __init__(self, region: Region = "all"):
        self.region = region
        self._numbers = 0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"draws"} if self.region == "all" else {"draws", "hole"})

    @property
    def names(self) -> Sequence[str]:
        return ["diversity" if self.region == "all" else f"diversity_{self.region}"]

    @property
    def width(self) -> int:
        return self._numbers + 1

    def check(self, modality: Modality) -> None:
        super().check(modality)
        self._numbers = prod(modality.shape)

    def rows(self, x: Tensor, given: Given) -> Tensor:
        """The pixels of the region, others 0, and how many there are."""
        chosen = where(self.region, x, given).expand_as(x)
        return torch.cat([(x * chosen).flatten(1), chosen.flatten(1).sum(1, keepdim=True)], 1)

    def values(self, rows: Tensor, groups: Groups) -> dict[str, Value]:
        distances, pictures = [], []
        for condition in groups.condition.unique():
            members = groups.condition == condition
            pixels, count = rows[members, :-1].double() / 2, rows[members, -1].double()
            n = len(pixels)
            if n > 1 and bool((count > 0).all()):
                squares = (pixels[:, None] - pixels[None]).square().sum(2) / count[0]
                distances.append(squares.sqrt().sum() / (n * (n - 1)))
                pictures.append(groups.picture[members][0])
        if not distances:
            raise ValueError("no condition has two samples with such a region")
        return {self.names[0]: self.mean(torch.stack(distances), torch.stack(pictures))}
