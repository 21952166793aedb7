"""The generator of DCGAN, which makes a picture of a few numbers, and the strided convolutions that look at one."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil, prod
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.ranges import Classes, Multiples, Width
from oboro.condition import Signal, Signals
from oboro.model.layers import LabelEmbedding, group_norm
from oboro.model.signals import label_index, reads

Size = Width | Annotated[Sequence[Width], Len(2, 2)]  # of pictures: a side, or (H, W)


def sides(size: Size) -> tuple[int, int]:
    """(H, W)."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


class Strided(nn.Module):
    """Pictures (B, in_channels, *size) ↦ features (B, ``features``): 4×4 convolutions that halve the sides, downwards,
    each followed by a leaky ReLU of slope 0.2; the l-th has ``width * channel_mult[l]`` channels.

    The discriminator of DCGAN (Radford et al. 2016, arXiv:1511.06434, sec. 3) without its normalisation, as Mescheder
    et al. 2018 (arXiv:1801.04406) use with their penalty: what it makes of a picture depends on no other.

    Raises ``UserError`` for pictures that cannot be halved so often.
    """

    def __init__(self, in_channels: int, size: Size, width: int, channel_mult: Sequence[int]):
        super().__init__()
        halved = [side >> len(channel_mult) for side in sides(size)]
        if min(halved) < 1:
            height, width_ = sides(size)
            raise UserError(
                f"pictures of {height}×{width_} cannot be halved {len(channel_mult)} times; name fewer levels in "
                "channel_mult."
            )
        widths = [in_channels, *(width * mult for mult in channel_mult)]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths))
        self.features = widths[-1] * prod(halved)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return x.flatten(1)


class DCGAN(nn.Module):
    """F(x, c_noise, signals) ↦ (B, in_channels, *size) of z, the first ``latent`` numbers of ``x`` (B, ...).

    A linear map of z and an embedding of the label to the smallest pictures, whose sides 4×4 transposed convolutions
    double: Radford et al. 2016 (DCGAN, arXiv:1511.06434, sec. 3), with ``width * channel_mult[l]`` channels at
    1/2^(l+1) of the size. Sides that are no multiple are cut out of the middle of the next larger ones. GroupNorm in
    place of batch normalisation, so that a sample depends on no other, and no tanh, so that latents of a codec can be
    made, too.

    It is asked at t = 1 alone, where x is pure noise, and does not read c_noise. Raises ``UserError`` for a latent of
    more numbers than a sample has.
    """

    min_size = 1
    dims = 2

    def __init__(
        self,
        in_channels: Width,
        size: Size,
        latent: Width = 100,
        width: Width = 64,
        channel_mult: Multiples = (1, 2, 4, 8),
        num_classes: Classes = 0,
    ):
        super().__init__()
        self.size = sides(size)
        if latent > in_channels * prod(self.size):
            raise UserError(
                f"samples have {in_channels * prod(self.size)} numbers and model.latent is {latent}; lower "
                "model.latent."
            )
        self.latent = latent
        self.label = LabelEmbedding(num_classes, latent) if num_classes else None
        self.smallest = [ceil(side / 2 ** len(channel_mult)) for side in self.size]
        widths = [width * mult for mult in reversed(channel_mult)]
        self.first = nn.Linear(2 * latent if num_classes else latent, widths[0] * prod(self.smallest))
        self.norms = nn.ModuleList(group_norm(channels) for channels in widths)
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 4, stride=2, padding=1)
            for a, b in zip(widths, [*widths[1:], in_channels], strict=True)
        )

    @property
    def reads(self) -> Mapping[str, type[Signal]]:
        return reads(self.label.num_classes if self.label is not None else 0)

    def forward(self, x: Tensor, c_noise: Tensor, signals: Signals) -> Tensor:
        h = x.flatten(1)[:, : self.latent]
        if self.label is not None:
            h = torch.cat([h, self.label(label_index(signals, c_noise)).to(h)], 1)
        h = self.first(h).unflatten(1, (-1, *self.smallest))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = layer(F.relu(norm(h)))
        top, left = ((have - want) // 2 for have, want in zip(h.shape[2:], self.size, strict=True))
        return h[:, :, top : top + self.size[0], left : left + self.size[1]]
