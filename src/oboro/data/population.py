"""What the training samples are, for those who draw conditions for new ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oboro.data.store import Samples


@dataclass(frozen=True)
class Population:
    """Of n training samples the classes (n,) int64, out of ``num_classes``, the captions, and by entry the second
    pictures (n, C', H, W), uint8, where there are any; and ``samples`` (n, C, ...) themselves, as they are stored."""

    labels: Tensor | None = None
    num_classes: int = 0
    captions: Sequence[str] | None = None
    hints: Mapping[str, Tensor | Samples] = field(default_factory=dict)
    samples: Tensor | Samples | None = None

    def __len__(self) -> int:
        """n, where anything is known of them."""
        known = (self.captions, self.labels, *self.hints.values(), self.samples)
        return len(next((each for each in known if each is not None), ()))

    @property
    def frequencies(self) -> Tensor | None:
        """Share of each class (num_classes,), float64; None without labels."""
        if self.labels is None:
            return None
        return torch.bincount(self.labels, minlength=self.num_classes).double() / len(self.labels)
