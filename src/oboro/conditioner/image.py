"""Conditioning on a picture: edges, a mask, a smaller version, the picture before an edit."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oboro import condition
from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.ranges import Name, Share, Width
from oboro.conditioner.conditioner import Batch, Single, training_metadata, training_rows
from oboro.data import Population
from oboro.modality import from_uint8

SHOWN = 8  # pictures of the data that samples in pictures are drawn after


class Image(Single):
    """batch[``entry``] (B, image_channels, H, W), in [-1, 1], ↦ the signal ``name``.

    The data module flips and crops it along with its image. Pictures during training show pictures of the data.
    """

    kind = condition.Image

    def __init__(self, image_channels: Width, dropout: Share = 0.1, name: Name = "image", entry: Name = "hint"):
        if image_channels < 1:
            raise UserError("conditioner=image reads a picture; set conditioner.image_channels to 1, 3 or 4.")
        super().__init__(dropout)
        self.name, self.entry = name, entry
        self.image_channels = image_channels
        self._shown: Tensor | None = None

    def signal(self, batch: Batch) -> condition.Image:
        x = batch[self.entry]
        return condition.Image(x, torch.ones(len(x), dtype=torch.bool, device=x.device))

    def check(self, population: Population) -> None:
        if self.entry not in population.hints:
            others = f"only {', '.join(population.hints)}" if population.hints else "none"
            raise UserError(
                f"conditioner=image needs a second picture ({self.entry}) of each image and these data have {others}; "
                "choose data with hints, or conditioner=label, text or unconditional."
            )
        self._shown = self._of(range(SHOWN), population)
        if self._shown.shape[1] != self.image_channels:
            raise UserError(
                f"the pictures to read have {counted(self._shown.shape[1], 'channels')} and "
                f"conditioner.image_channels is {self.image_channels}; set it to {self._shown.shape[1]}."
            )

    def metadata(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """Of a ``population`` the caption and the class of the image whose hint is taken."""
        return {} if population is None else training_metadata(ids, population)

    def sample_batch(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """With the picture i mod 8 that pictures show, or of a ``population`` that of ``training_rows``."""
        if population is not None:
            return {**self.metadata(ids, population), self.entry: self._of(ids, population)}
        if self._shown is None:
            raise UserError("the model draws after a picture and was given none; set hint=<a file or folder>.")
        return {self.entry: self._shown[torch.tensor(list(ids)) % SHOWN]}

    def _of(self, ids: Sequence[int], population: Population) -> Tensor:
        return from_uint8(population.hints[self.entry][training_rows(ids, population)])
