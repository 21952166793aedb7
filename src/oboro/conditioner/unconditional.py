"""No condition at all."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.denoiser import Cond
from oboro.errors import UserError


class Unconditional:
    """batch ↦ {}. ``num_classes`` is 0, for networks that ask every conditioner."""

    dropout = 0.0

    def __init__(self, num_classes: int = 0):
        if num_classes != 0:
            raise UserError("conditioner=unconditional has no classes; use conditioner=label for labelled data.")
        self.num_classes = num_classes

    def __call__(self, batch: dict[str, Tensor], generator: torch.Generator) -> Cond:
        return {}

    def keep(self, batch: dict[str, Tensor]) -> Cond:
        return {}

    def for_samples(self, ids: Sequence[int], frequencies: Tensor | None) -> Cond:
        return {}
