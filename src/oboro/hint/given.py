"""A second picture that the data have."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.condition import Image
from oboro.hint.hint import Hint, whole


class Given(Hint):
    """The picture as it is: one that the data bring along with each sample, ``batch["hint"]``."""

    entry = "hint"

    def __call__(self, x: Tensor, generators: Sequence[torch.Generator] = ()) -> Image:
        return whole(x)

    def picture(self, x: Tensor, generators: Sequence[torch.Generator]) -> Image:
        return whole(x)
