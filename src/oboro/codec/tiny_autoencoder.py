"""A small autoencoder for previews and small machines."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn

from oboro.base.ranges import Depth, NonNegative, Width
from oboro.codec.learned import Learned, Reconstructed
from oboro.model.layers import zero


class PlainBlock(nn.Module):
    """relu(x + conv(relu(conv(relu(conv(x)))))), without normalisation."""

    def __init__(self, channels: int):
        super().__init__()
        convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        last = zero(nn.Conv2d(channels, channels, 3, padding=1))
        self.branch = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.branch(x))


class TinyAutoencoder(Learned):
    """A deterministic autoencoder of plain convolutions with ``width`` channels at all ``len(blocks)`` sizes, in the
    spirit of TAESD (https://github.com/madebyollin/taesd).

    The image is halved before each but the first entry of ``blocks``, the number of residual blocks at that size. No
    layer looks at the whole image, so tiles far enough from a border are exact. Its term of the objective is
    ``norm_weight`` times the mean of z², which keeps latents from growing without bound.
    """

    def __init__(
        self,
        in_channels: Width,
        channels: Width,
        width: Width = 64,
        blocks: Annotated[Sequence[Depth], Len(1, 16)] = (1, 3, 3),
        norm_weight: NonNegative = 0.0,
    ):
        super().__init__(in_channels, channels, 2 ** (len(blocks) - 1))
        down: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1)]
        for i, count in enumerate(blocks):
            down += [nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)] if i else []
            down += [PlainBlock(width) for _ in range(count)]
        up: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        for i, count in enumerate(reversed(blocks)):
            up += [nn.Upsample(scale_factor=2.0), nn.Conv2d(width, width, 3, padding=1, bias=False)] if i else []
            up += [PlainBlock(width) for _ in range(count)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(width, channels, 3, padding=1))
        self.decoder = nn.Sequential(*up, nn.Conv2d(width, in_channels, 3, padding=1))
        self.norm_weight = norm_weight

    def latent(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def image(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)

    @property
    def last(self) -> nn.Parameter:
        return self.decoder[-1].weight

    def reconstruct(self, x: Tensor, generator: torch.Generator) -> Reconstructed:
        z = self.latent(x)
        size = z.square().flatten(1).mean(1)
        return Reconstructed(self.image(z), self.norm_weight * size, {"latent_square": size.mean()})

    def observe(self, x: Tensor) -> Tensor:
        return self.latent(x).square().flatten(1).mean(1, keepdim=True)

    def summary(self, rows: Tensor) -> dict[str, float]:
        """``latent_square``: the mean of z²."""
        return {"latent_square": rows.mean().item()}
