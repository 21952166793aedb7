"""What every hint is, and pictures of other channels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Width
from oboro.condition import Image
from oboro.measurement import Grey


class Hint(ABC):
    """Pictures x (B, C, H, W) in [-1, 1] ↦ what a network reads of them, an ``Image`` of ``channels`` channels.

    A pure function of each picture and its generator. It is computed on the device, from the picture as it is mirrored
    and cropped, so that nothing is stored. A kind of one's own gives ``picture``.

    Attributes:
        entry: of the batch, that it is made of by default: ``x`` is the sample.
        random: whether it draws from the generators.
        has_hole: whether it hides a part of the picture.
        keeps_known: whether samples are to have the known pixels of a picture with a hole.
    """

    entry: str = "x"
    random: bool = False
    has_hole: bool = False
    keeps_known: bool = False

    def __init__(self, channels: Width):
        self.channels = channels

    def __call__(self, x: Tensor, generators: Sequence[torch.Generator] = ()) -> Image:
        """``generators``: one for each picture where the hint is ``random``."""
        return self.picture(with_channels(x, self.channels), generators)

    @abstractmethod
    def picture(self, x: Tensor, generators: Sequence[torch.Generator]) -> Image:
        """Of pictures that have ``channels`` channels already."""


def whole(x: Tensor) -> Image:
    """A picture without a hole."""
    return Image(x, torch.ones(len(x), dtype=torch.bool, device=x.device))


def with_channels(x: Tensor, channels: int) -> Tensor:
    """x (B, 1, 3 or 4, H, W) in [-1, 1] with 1 (grey), 3 (RGB) or 4 ``channels`` (and opacity). Transparency is laid
    on white, as it is where files are read."""
    if x.shape[1] == 4 and channels < 4:
        opacity = (x[:, 3:] + 1) / 2
        x = x[:, :3] * opacity + (1 - opacity)
    if x.shape[1] == channels:
        return x
    if x.shape[1] == 1 and channels == 3:
        return x.expand(-1, 3, *x.shape[2:])
    if x.shape[1] == 3 and channels == 1:
        return Grey()(x)
    if x.shape[1] in (1, 3) and channels == 4:
        return torch.cat([with_channels(x, 3), torch.ones_like(x[:, :1])], 1)
    raise UserError(
        f"a picture of {x.shape[1]} channels cannot become one of {channels}; set hint.channels to 1, 3 or 4."
    )
