"""Conditioning on the class of an image."""

from collections.abc import Sequence
from typing import Any

import torch

from oboro import condition
from oboro.base.counted import counted
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
                "conditioner=label needs labelled data and data.num_classes is 0; give the data labels and set "
                "data.num_classes=auto, or use conditioner=unconditional."
            )
        super().__init__(dropout)
        self.num_classes = num_classes

    def signal(self, batch: Batch) -> condition.Label:
        """Raises ``UserError`` for a class that there is not, unless labels are on another device already: the data
        module has looked at those."""
        label = batch["label"]
        if label.device.type == "cpu" and bool(((label < 0) | (label >= self.num_classes)).any()):
            odd = label[(label < 0) | (label >= self.num_classes)][0].item()
            raise UserError(
                f"label {odd} is no class of the model, which has 0 to {self.num_classes - 1}; correct the labels."
            )
        return condition.Label(label)

    def check(self, population: Population) -> None:
        if population.labels is None:
            raise UserError(
                "conditioner=label needs images with labels and these have none; set data.num_classes=auto, choose "
                "other data, or choose conditioner=unconditional."
            )
        if population.num_classes != self.num_classes:
            raise UserError(
                f"the model has {counted(self.num_classes, 'classes')} and the data {population.num_classes}; choose "
                "data=... of its classes."
            )

    def metadata(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """Class i mod num_classes, or of a ``population`` the quantile of its classes at ``low_discrepancy(i)``."""
        i = torch.tensor(list(ids), dtype=torch.int64)
        if population is None:
            return {"label": i % self.num_classes}
        cumulative = torch.cumsum(population.frequencies, 0)
        return {"label": torch.searchsorted(cumulative, low_discrepancy(i), right=True).clamp(max=self.num_classes - 1)}
