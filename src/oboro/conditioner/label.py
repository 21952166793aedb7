"""Conditioning on the class of an image."""

from collections.abc import Sequence
from typing import Any

import torch

from oboro.base.errors import UserError
from oboro.base.seeding import low_discrepancy
from oboro.conditioner.conditioner import Batch, Conditioner
from oboro.data import Population
from oboro.denoiser import Cond

DROPPED = -1


class Label(Conditioner):
    """batch ↦ {"label": int64 (B,)}; a dropped label is -1, and so is a missing key for the network."""

    def __init__(self, num_classes: int, dropout: float = 0.1, text_dim: int = 0, pooled_dim: int = 0):
        if num_classes < 1:
            raise UserError(
                "conditioner=label needs labelled data and data.num_classes is 0; "
                "set data.num_classes to the number of classes or use conditioner=unconditional."
            )
        if text_dim or pooled_dim:
            raise UserError(
                "conditioner=label reads no text; leave text_dim and pooled_dim at 0, or use conditioner=text."
            )
        super().__init__(dropout, num_classes)

    @property
    def keys(self) -> set[str]:
        return {"label"}

    def forward(self, batch: Batch, generator: torch.Generator) -> Cond:
        label = batch["label"]
        drop = torch.rand(label.shape, generator=generator, device=generator.device) < self.dropout
        return {"label": torch.where(drop.to(label.device), DROPPED, label)}

    def keep(self, batch: Batch) -> Cond:
        return {"label": batch["label"]}

    def check(self, population: Population) -> None:
        if population.labels is None:
            raise UserError(
                "conditioner=label needs images with labels and these have none; set data.num_classes to their number "
                "of classes, choose other data, or choose conditioner=unconditional."
            )

    def choose(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """Class i mod num_classes, or of a ``population`` the quantile of its classes at ``low_discrepancy(i)``."""
        i = torch.tensor(list(ids), dtype=torch.int64)
        if population is None:
            return {"label": i % self.num_classes}
        cumulative = torch.cumsum(population.frequencies, 0)
        return {"label": torch.searchsorted(cumulative, low_discrepancy(i), right=True).clamp(max=self.num_classes - 1)}
