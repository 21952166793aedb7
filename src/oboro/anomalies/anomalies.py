"""The base of all test sets."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.anomalies.test_set import GOOD, TestSet
from oboro.base.errors import UserError
from oboro.base.ranges import Count
from oboro.base.spread import spread
from oboro.data import DataModule


class Anomalies(ABC):
    """Which samples are anomalous: held-out ones of a data source, or others beside them. ``n``: at most so many normal
    and so many anomalous ones, at equal distances in their order; None: all."""

    def __init__(self, n: Count | None = None):
        self.n = n

    @abstractmethod
    def __call__(self, data: DataModule) -> TestSet:
        """The test set of ``data``, which is prepared and set up. No sample of it was trained on or validated with.

        Raises ``UserError`` where the data do not have what it takes.
        """

    def rows(self, count: int) -> Tensor:
        """Which of ``count`` samples are taken, (k,) int64."""
        return torch.tensor(spread(self.n, count), dtype=torch.long)

    def halves(self, count: int) -> tuple[Tensor, Tensor]:
        """Those of every second sample, for normal ones, and of the others: none is in a test set both ways."""
        return 2 * self.rows(count - count // 2), 2 * self.rows(count // 2) + 1


def check_normals(data: DataModule, wanted: int) -> None:
    """Raises ``UserError`` unless ``wanted`` normal samples are held out for the test."""
    if len(data.test) < wanted:
        raise UserError(
            f"{len(data.test)} normal {data.modality.noun} are held out for the test and it takes {wanted}; train with "
            "data.test=1000 or so, since what was trained on or validated with tests nothing."
        )


def joined(
    normal: Tensor,
    anomalous: Tensor,
    normal_names: Sequence[str],
    anomalous_names: Sequence[str],
    kinds: Sequence[str],
    masks: Tensor | None = None,
) -> TestSet:
    """The stored samples of both, normal ones first; ``kinds`` and ``masks`` are those of anomalous ones."""
    if masks is not None:
        masks = torch.cat([torch.zeros(len(normal), *masks.shape[1:], dtype=torch.bool), masks])
    return TestSet(
        torch.cat([normal, anomalous]),
        torch.arange(len(normal) + len(anomalous)) >= len(normal),
        masks,
        [*[GOOD] * len(normal), *kinds],
        [*normal_names, *anomalous_names],
    )
