"""No condition at all."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.denoiser import Cond


class Unconditional:
    """batch ↦ {}."""

    num_classes = 0

    def __call__(self, batch: dict[str, Tensor], generator: torch.Generator) -> Cond:
        return {}

    def keep(self, batch: dict[str, Tensor]) -> Cond:
        return {}

    def for_samples(self, ids: Sequence[int], frequencies: Tensor | None) -> Cond:
        return {}
