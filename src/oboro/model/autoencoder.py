"""The encoder and the decoder of an autoencoder of images, without noise or labels."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from oboro.model.layers import SelfAttention, Upsample, group_norm, zero


class ConvBlock(nn.Module):
    """skip(x) + conv(silu(norm(conv(silu(norm(x)))))): the residual block of ``UNet`` without an embedding."""

    def __init__(self, in_channels: int, channels: int, groups: int | None = None):
        super().__init__()
        self.norm1 = group_norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm2 = group_norm(channels, groups)
        self.conv2 = zero(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class PadBehind(nn.Module):
    """Zeros on the right and below: one row and column, and another where a side is odd."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 1 + x.shape[-1] % 2, 0, 1 + x.shape[-2] % 2))


class PaddedDownsample(nn.Sequential):
    """Halves H and W, upwards, with a strided 3×3 convolution that is padded on the right and below alone, as LDM's.

    Output pixel i sees input pixels 2i, 2i + 1 and 2i + 2; ``Downsample`` is centred on pixel 2i.
    """

    def __init__(self, channels: int):
        super().__init__(PadBehind(), nn.Conv2d(channels, channels, 3, stride=2))


class Middle(nn.Sequential):
    """Residual block, self-attention with one head (where ``attention``), residual block."""

    def __init__(self, channels: int, attention: bool, groups: int | None = None):
        norm = partial(group_norm, groups=groups)
        attend = SelfAttention(channels, 0, norm) if attention else nn.Identity()
        super().__init__(ConvBlock(channels, channels, groups), attend, ConvBlock(channels, channels, groups))


class Encoder(nn.Module):
    """Images (B, in_channels, H, W) ↦ (B, out_channels, H / f, W / f) with f = 2^(levels - 1).

    Level i has ``width * channel_mult[i]`` channels and ``blocks`` residual blocks, and all levels but the last halve
    H and W. The middle, normalisation and a 3×3 convolution follow: the encoder of VQGAN (Esser et al. 2021,
    arXiv:2012.09841, table 7) and of LDM (Rombach et al. 2022, arXiv:2112.10752) with attention in the middle alone.
    ``groups`` are those of every normalisation; None follows ``group_norm``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        channel_mult: Sequence[int],
        blocks: int,
        attention: bool,
        groups: int | None = None,
    ):
        super().__init__()
        widths = [width * mult for mult in channel_mult]
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList()
        before = widths[0]
        for i, channels in enumerate(widths):
            stages = [ConvBlock(before if k == 0 else channels, channels, groups) for k in range(blocks)]
            if i < len(widths) - 1:
                stages.append(PaddedDownsample(channels))
            self.levels.append(nn.Sequential(*stages))
            before = channels
        self.middle = Middle(before, attention, groups)
        self.norm = group_norm(before, groups)
        self.conv_out = nn.Conv2d(before, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.levels:
            h = level(h)
        return self.conv_out(F.silu(self.norm(self.middle(h))))


class Decoder(nn.Module):
    """Latents (B, in_channels, h, w) ↦ images (B, out_channels, f h, f w): the encoder backwards.

    Levels have one residual block more than the encoder's, and all but the last double H and W.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        channel_mult: Sequence[int],
        blocks: int,
        attention: bool,
        groups: int | None = None,
    ):
        super().__init__()
        widths = [width * mult for mult in reversed(channel_mult)]
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.middle = Middle(widths[0], attention, groups)
        self.levels = nn.ModuleList()
        before = widths[0]
        for i, channels in enumerate(widths):
            stages = [ConvBlock(before if k == 0 else channels, channels, groups) for k in range(blocks + 1)]
            if i < len(widths) - 1:
                stages.append(Upsample(channels))
            self.levels.append(nn.Sequential(*stages))
            before = channels
        self.norm = group_norm(before, groups)
        self.conv_out = nn.Conv2d(before, out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.middle(self.conv_in(z))
        for level in self.levels:
            h = level(h)
        return self.conv_out(F.silu(self.norm(h)))
