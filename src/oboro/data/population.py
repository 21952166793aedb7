"""What the training samples are, for those who draw conditions for new ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from oboro.data.cache import SampleArray


@dataclass(frozen=True)
class Population:
    """Of n training samples the classes (n,) int64, out of ``num_classes``, the captions, and the second pictures
    (n, C', H, W), uint8, where there are any."""

    labels: Tensor | None = None
    num_classes: int = 0
    captions: list[str] | None = None
    hints: Tensor | SampleArray | None = None

    def __len__(self) -> int:
        """n, where anything is known of them."""
        return len(next((known for known in (self.captions, self.labels, self.hints) if known is not None), ()))

    @property
    def frequencies(self) -> Tensor | None:
        """Share of each class (num_classes,), float64; None without labels."""
        if self.labels is None:
            return None
        return torch.bincount(self.labels, minlength=self.num_classes).double() / len(self.labels)
