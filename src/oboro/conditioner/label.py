"""Conditioning on the class of an image."""

from collections.abc import Sequence
from typing import Any

import torch

from oboro import condition
from oboro.base.errors import UserError
from oboro.base.ranges import Classes, Share
from oboro.base.seeding import low_discrepancy
from oboro.conditioner.conditioner import Batch, Single
from oboro.data import Population


class Label(Single):
    """batch["label"] (B,), int64, ↦ the signal ``label``."""

    name, kind, entry = "label", condition.Label, "label"

    def __init__(self, num_classes: Classes, dropout: Share = 0.1):
        if num_classes < 1:
            raise UserError(
                "conditioner=label needs labelled data and data.num_classes is 0; "
                "set data.num_classes to the number of classes or use conditioner=unconditional."
            )
        super().__init__(dropout)
        self.num_classes = num_classes

    def signal(self, batch: Batch) -> condition.Label:
        return condition.Label(batch["label"])

    def check(self, population: Population) -> None:
        if population.labels is None:
            raise UserError(
                "conditioner=label needs images with labels and these have none; set data.num_classes to their number "
                "of classes, choose other data, or choose conditioner=unconditional."
            )

    def metadata(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """Class i mod num_classes, or of a ``population`` the quantile of its classes at ``low_discrepancy(i)``."""
        i = torch.tensor(list(ids), dtype=torch.int64)
        if population is None:
            return {"label": i % self.num_classes}
        cumulative = torch.cumsum(population.frequencies, 0)
        return {"label": torch.searchsorted(cumulative, low_discrepancy(i), right=True).clamp(max=self.num_classes - 1)}
