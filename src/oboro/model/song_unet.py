"""The U-Nets of score matching by stochastic differential equations: DDPM++ and NCSN++."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from math import pi, sqrt
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn

from oboro.base.ranges import Axes, BelowOne, Classes, Depth, Levels, Multiples, Width
from oboro.condition import Signals
from oboro.model.layers import (
    ResidualBlock,
    SelfAttention,
    channels_out,
    check_levels,
    conv,
    convolution,
    group_norm,
    zero,
)
from oboro.model.numbers import NumberEmbedding
from oboro.model.signals import ImageChannels, label_index, reads, width
from oboro.model.unet_skeleton import Stages, UNetSkeleton, way_down, way_up


class Filter(nn.Module):
    """The outer product of ``taps`` with itself over ``dims`` axes, of sum 1, as a filter for every channel alone."""

    def __init__(self, taps: Sequence[float], dims: int = 2):
        super().__init__()
        row = torch.tensor(taps, dtype=torch.float32)
        kernel = reduce(torch.multiply, (row[(..., *[None] * axis)] for axis in range(dims)))
        self.register_buffer("kernel", kernel[None, None] / row.sum() ** dims, persistent=False)
        self.margin = (len(taps) - 1) // 2
        self.dims = dims

    def weight(self, x: Tensor) -> Tensor:
        return self.kernel.to(x).expand(x.shape[1], *self.kernel.shape[1:])


def even(x: Tensor) -> Tensor:
    """x (B, C, ...) with its last row, column, … repeated where their number is odd."""
    return F.pad(x, [margin for n in reversed(x.shape[2:]) for margin in (0, n % 2)], mode="replicate")


class FilterDown(Filter):
    """x ↦ every second row and column of x * filter: H and W are halved, upwards where they are odd."""

    def forward(self, x: Tensor) -> Tensor:
        return convolution(self.dims)(even(x), self.weight(x), stride=2, padding=self.margin, groups=x.shape[1])


class FilterUp(Filter):
    """The transpose of ``FilterDown``, times 2 for each axis: H and W are doubled and the mean stays."""

    def forward(self, x: Tensor) -> Tensor:
        transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.dims - 1]
        return transpose(x, 2**self.dims * self.weight(x), stride=2, padding=self.margin, groups=x.shape[1])


class ConvDown(Filter):
    """A 3×3 convolution, then the filter at every second row and column: halves H and W, upwards where they are odd.

    The plane around the image is zero; the convolution is not cut off before the filter has read it.
    """

    def __init__(self, taps: Sequence[float], in_channels: int, channels: int, dims: int = 2):
        super().__init__(taps, dims)
        self.conv = conv(dims, in_channels, channels, padding=1 + self.margin)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(even(x))
        return convolution(self.dims)(h, self.weight(h), stride=2, groups=h.shape[1])


class Stage(nn.Module):
    """A residual block, with or without self-attention after it; each sum of two branches is divided by sqrt(2)."""

    def __init__(self, block: ResidualBlock, attention: SelfAttention | None = None):
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        h = self.block(h, embedding) * sqrt(0.5)
        return self.attention(h) * sqrt(0.5) if self.attention else h


@dataclass(frozen=True)
class SongStages(Stages):
    """Makes the stages of a ``SongUNet``; the settings are its own."""

    channels: int
    channel_mult: Sequence[int]
    blocks: int
    attention_levels: Sequence[int]
    dropout: float
    taps: Sequence[float]
    dims: int = 2

    def __post_init__(self) -> None:
        check_levels(self.attention_levels, self.levels)

    @property
    def widths(self) -> list[int]:
        return [self.channels * m for m in self.channel_mult]

    @property
    def embedding(self) -> int:
        """Width of the embedding of noise and label."""
        return 4 * self.channels

    def stage(self, c_in: int, c: int, attend: bool = False, resample: nn.Module | None = None) -> Stage:
        settings = {"dropout": self.dropout, "scale_shift": False, "dims": self.dims}
        block = ResidualBlock(c_in, c, self.embedding, resample=resample, project=resample is not None, **settings)
        return Stage(block, SelfAttention(c, 0, dims=self.dims) if attend else None)

    def down(self, c_in: int, level: int) -> Stage:
        return self.stage(c_in, self.widths[level], level in self.attention_levels)

    def half(self, c: int) -> Stage:
        return self.stage(c, c, resample=FilterDown(self.taps, self.dims))

    def middle(self, c: int) -> nn.ModuleList:
        return nn.ModuleList([self.stage(c, c, attend=True), self.stage(c, c)])

    def up(self, c_in: int, level: int, last: bool) -> Stage:
        return self.stage(c_in, self.widths[level], last and level in self.attention_levels)

    def double(self, c: int) -> Stage:
        return self.stage(c, c, resample=FilterUp(self.taps, self.dims))


def by_level(stages: nn.ModuleList, blocks: int) -> nn.ModuleList:
    """The way down as one list of stages for every level, each but the first beginning with the stage that halves."""
    starts = [0, *range(blocks, len(stages), blocks + 1)]
    return nn.ModuleList(stages[a:b] for a, b in pairwise([*starts, len(stages)]))


def image_pyramid(stages: SongStages, in_channels: int) -> list[ConvDown]:
    """What brings the image to every halved level: from ``in_channels``, then from those that the last level had."""
    widths = stages.widths[:-1]  # of activations at the stage that halves
    return [ConvDown(stages.taps, a, b, stages.dims) for a, b in pairwise([in_channels, *widths])]


class Embedding(nn.Module):
    """MLP([sin, cos](c_noise f_k) + label) (B, dim), with ``features`` / 2 frequencies (arXiv:2206.00364, app. F).

    f_k = 10000^(-k / (features / 2 - 1)), or ``fourier``: f_k ~ N(0, (32 pi)²), drawn once and stored with the weights.
    The label is a linear map of sqrt(K) times the one-hot label, which is zero for a dropped one.
    """

    def __init__(self, features: int, dim: int, num_classes: int, fourier: bool):
        super().__init__()
        n = features // 2
        frequencies = 32 * pi * torch.randn(n) if fourier else 10_000.0 ** -(torch.arange(n) / (n - 1))
        self.register_buffer("frequencies", frequencies)
        self.num_classes = num_classes
        self.label = nn.Linear(num_classes, features) if num_classes else None
        self.mlp = nn.Sequential(nn.Linear(features, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, c_noise: Tensor, label: Tensor) -> Tensor:
        angle = c_noise.to(torch.promote_types(c_noise.dtype, torch.float32))[:, None] * self.frequencies
        features = torch.cat([angle.sin(), angle.cos()], 1).to(c_noise.dtype)
        if self.label:
            hot = F.one_hot(label.clamp_min(0), self.num_classes) * (label >= 0)[:, None]
            features = features + self.label(hot.to(features.dtype) * sqrt(self.num_classes))
        return self.mlp(features)


class SongUNet(UNetSkeleton):
    """F(x (B, C, H, W), c_noise (B,), signals) ↦ (B, C, H, W), for any H and W of at least ``min_size``.

    DDPM++ and NCSN++ of Song et al. 2021 (arXiv:2011.13456) in the shape that Karras et al. 2022 gave them
    (arXiv:2206.00364, table 7 and app. F). What differs from ``UNet``: every sum of two branches is divided by
    sqrt(2); resizing, by the filter ``taps``, is inside of residual blocks, whose skip branch has a convolution then;
    on the way up there is attention only after the last block of a level; and the label enters before the MLP of the
    embedding. NCSN++ takes random Fourier features of the noise level (``fourier``) and feeds the image into every
    level of the way down by a chain of strided convolutions (``pyramid``).

    Level l has ``channels * channel_mult[l]`` channels at 1/2^l of the resolution. An odd size is halved upwards, 7 to
    4, and the row and column too many are cut off on the way up. ``attention_levels`` are levels, not pixel sizes.
    ``num_classes`` > 0 adds a class embedding for the signal ``label``. ``checkpointing`` recomputes each stage in the
    backward pass: less memory for about a third more time. Convolutions that end a residual branch, and the last one,
    start at zero, where theirs start near it. With ``learned_variance`` 2 C channels come out. ``dims``,
    ``image_channels`` and the numbers that it reads as in ``UNet``.
    """

    def __init__(
        self,
        in_channels: Width,
        channels: Width = 128,
        channel_mult: Multiples = (2, 2, 2),
        blocks: Depth = 4,
        attention_levels: Levels = (1,),
        dropout: BelowOne = 0.13,
        noise_channels: Width = 128,
        fourier: bool = False,
        pyramid: bool = False,
        taps: Annotated[Sequence[float], Len(1, 64)] = (1, 1),
        num_classes: Classes = 0,
        checkpointing: bool = False,
        learned_variance: bool = False,
        dims: Axes = 2,
        image_channels: ImageChannels = 0,
        reads_end: bool = False,
        reads_guidance_scale: bool = False,
    ):
        super().__init__()
        stages = SongStages(channels, channel_mult, blocks, attention_levels, dropout, taps, dims)
        self.dims = dims
        self.min_size = stages.min_size
        self.blocks = blocks
        self.reads = reads(
            num_classes, image_channels=image_channels, end=reads_end, guidance_scale=reads_guidance_scale
        )
        self.image_channels = image_channels
        self.checkpointing = checkpointing
        self.embedding = Embedding(noise_channels, stages.embedding, num_classes, fourier)
        self.first = conv(dims, in_channels, channels)
        down, self.skip_channels = way_down(stages, channels)
        self.down = by_level(down, blocks)
        self.pyramid = nn.ModuleList(image_pyramid(stages, in_channels) if pyramid else ())
        self.middle = stages.middle(self.skip_channels[-1])
        self.up = way_up(stages, self.skip_channels)
        c = stages.widths[0]
        last = conv(dims, c, channels_out(in_channels, learned_variance))
        self.last = nn.Sequential(group_norm(c), nn.SiLU(), zero(last))
        self._initialise()
        wide = width(image_channels)
        self.image = zero(conv(dims, wide, channels, bias=False)) if wide else None
        self.end = NumberEmbedding(stages.embedding) if reads_end else None
        self.guidance_scale = NumberEmbedding(stages.embedding) if reads_guidance_scale else None

    def _initialise(self) -> None:
        """Glorot-uniform weights and no biases; zero stays what ends a branch."""
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim > 1 and not name.endswith(("conv2.weight", "proj.weight")) and not name.startswith("last"):
                nn.init.xavier_uniform_(p, gain=sqrt(0.2) if "qkv" in name else 1.0)

    def embed(self, c_noise: Tensor, signals: Signals) -> tuple[Tensor]:
        return (self.embedding(c_noise, label_index(signals, c_noise)),)

    def halved(self, h: Tensor, image: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """The sum with the image of the pyramid, which goes on from there."""
        if not self.pyramid:
            return h, image
        h = (h + self.pyramid[level - 1](image)) * sqrt(0.5)
        return h, h
