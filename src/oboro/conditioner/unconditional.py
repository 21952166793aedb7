"""No condition at all."""

from collections.abc import Sequence
from typing import Any

import torch

from oboro.base.errors import UserError
from oboro.conditioner.conditioner import Batch, Conditioner
from oboro.data import Population
from oboro.denoiser import Cond


class Unconditional(Conditioner):
    """batch ↦ {}. The arguments are 0, for networks that ask every conditioner."""

    def __init__(self, num_classes: int = 0, text_dim: int = 0, pooled_dim: int = 0):
        if num_classes or text_dim or pooled_dim:
            raise UserError("conditioner=unconditional has no classes and no text; use conditioner=label or text.")
        super().__init__()

    @property
    def keys(self) -> set[str]:
        return set()

    def forward(self, batch: Batch, generator: torch.Generator) -> Cond:
        return {}

    def keep(self, batch: Batch) -> Cond:
        return {}

    def choose(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        return {}
