"""Large images in pieces."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.codec.learned import Learned


class Tiled(nn.Module):
    """``codec`` applied to overlapping square tiles that are blended: images of any size in the memory of one tile.

    ``tile`` and ``overlap`` are sides in pixels of the image. Across an overlap the weight of one tile falls linearly
    from 1 to 0 and its neighbour's rises, within the middle half; the outer quarters, which are next to a border that
    the image does not have, count nothing. So a codec whose output depends on what is less than overlap / 4 pixels
    away gives exactly what it gives untiled. A codec that looks at the whole image (group normalisation, attention)
    does not, and the overlap hides the difference. Images not larger than a tile are left to ``codec``.
    """

    def __init__(self, codec: Learned, tile: int, overlap: int):
        super().__init__()
        step = 4 * codec.factor
        if tile % codec.factor or overlap % step or not 0 < overlap <= tile // 2:
            raise UserError(
                f"tiles of {tile} with an overlap of {overlap} do not fit a codec that divides sides by "
                f"{codec.factor}; set a tile of n·{codec.factor} and an overlap of n·{step}, at most half a tile."
            )
        self.codec = codec
        self.channels = codec.channels
        self.tile = tile
        self.overlap = overlap

    def extra_repr(self) -> str:
        return f"tile={self.tile}, overlap={self.overlap}"

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        return self.codec.latent_shape(shape)

    def encode(self, x: Tensor) -> Tensor:
        self.latent_shape(x.shape[1:])
        return blend(self.codec.encode, x, self.tile, self.overlap, shrink=self.codec.factor, grow=1)

    def decode(self, z: Tensor) -> Tensor:
        f = self.codec.factor
        return blend(self.codec.decode, z, self.tile // f, self.overlap // f, shrink=1, grow=f)


def blend(f: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, *, shrink: int, grow: int) -> Tensor:
    """f(x) by tiles of side ``tile`` in x; ``f`` multiplies sides by grow / shrink. Sizes as in ``Tiled``."""
    height, width = x.shape[-2:]
    if max(height, width) <= tile:
        return f(x)

    def scaled(n: int) -> int:
        return n * grow // shrink

    total = weights = None
    for top in starts(height, tile, overlap):
        for left in starts(width, tile, overlap):
            bottom, right = min(top + tile, height), min(left + tile, width)
            y = f(x[..., top:bottom, left:right])
            weight = torch.outer(
                window(scaled(bottom - top), scaled(overlap), first=top == 0, last=bottom == height),
                window(scaled(right - left), scaled(overlap), first=left == 0, last=right == width),
            ).to(y)
            if total is None:
                total = y.new_zeros(*y.shape[:-2], scaled(height), scaled(width))
                weights = y.new_zeros(scaled(height), scaled(width))
            place = (..., slice(scaled(top), scaled(bottom)), slice(scaled(left), scaled(right)))
            total[place] += y * weight
            weights[place] += weight
    return total / weights


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin: every tile - overlap pixels, the last one flush with the end."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def window(length: int, overlap: int, *, first: bool, last: bool) -> Tensor:
    """The weights (length,) of a tile: 1, and a ramp over ``overlap`` pixels towards every end inside of the image."""
    i = torch.arange(length, dtype=torch.float64) + 0.5
    rise = ((i - overlap / 4) / (overlap / 2)).clamp(0, 1)
    left = torch.ones_like(i) if first else rise
    right = torch.ones_like(i) if last else rise.flip(0)
    return left * right
