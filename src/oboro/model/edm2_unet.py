"""The magnitude-preserving U-Net of EDM2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.ranges import Axes, BelowOne, Classes, Depth, Levels, Multiples, Width, WidthOrNone
from oboro.condition import Signals
from oboro.model.dropout import Dropout
from oboro.model.layers import channels_out, check_levels, mean_of_halves, over_space
from oboro.model.magnitude import (
    CosineAttention,
    MPConv,
    MPFourier,
    MPLabel,
    MPLinear,
    MPNumber,
    mp_cat,
    mp_silu,
    mp_sum,
    normalise_weights,
    pixel_norm,
)
from oboro.model.signals import ImageChannels, label_index, pictures, reads, width
from oboro.model.unet_skeleton import NOTHING, Stages, UNetSkeleton, way_down, way_up

# The balances of config G (arXiv:2312.02696): share of the residual branch, of attention, of the class, of
# the skip connection.
RESIDUAL, ATTENTION, CLASS, SKIP = 0.3, 0.3, 0.5, 0.5
CLIP = 256.0  # activations stay this far inside of half precision


class Residual(nn.Module):
    """conv(dropout(mp_silu(conv(mp_silu(x)) (1 + gain embedding wᵀ)))), with a learned ``gain`` that starts at 0."""

    def __init__(self, in_channels: int, channels: int, embedding: int, dropout: float, dims: int = 2):
        super().__init__()
        self.conv1 = MPConv(in_channels, channels, 3, dims)
        self.embedding = MPLinear(embedding, channels)
        self.gain = nn.Parameter(torch.zeros(()))
        self.dropout = Dropout(dropout)
        self.conv2 = MPConv(channels, channels, 3, dims)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale = 1 + self.embedding(embedding, self.gain)
        h = self.conv1(mp_silu(x))
        return self.conv2(self.dropout(mp_silu(h * over_space(scale, h))))


class Block(nn.Module):
    """mp_sum(x, residual(x)), then attention and clipping, after ``resample`` (arXiv:2312.02696, fig. 21).

    An ``encoder`` block brings x to its channels first and normalises each pixel; one of the decoder leaves x as it is
    for the residual branch and changes the channels of the main one.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        embedding: int,
        *,
        encoder: bool,
        dropout: float,
        resample: nn.Module | None = None,
        attention: nn.Module | None = None,
        dims: int = 2,
    ):
        super().__init__()
        self.encoder = encoder
        self.resample = resample or nn.Identity()
        self.skip = MPConv(in_channels, channels, 1, dims) if in_channels != channels else nn.Identity()
        self.residual = Residual(channels if encoder else in_channels, channels, embedding, dropout, dims)
        self.attention = attention or nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.resample(x)
        if self.encoder:
            x = pixel_norm(self.skip(x))
            x = mp_sum(x, self.residual(x, embedding), RESIDUAL)
        else:
            x = mp_sum(self.skip(x), self.residual(x, embedding), RESIDUAL)
        return self.attention(x).clamp(-CLIP, CLIP)


@dataclass(frozen=True)
class EDM2Stages(Stages):
    """Makes the blocks of an ``EDM2UNet``; the settings are its own."""

    channels: int
    channel_mult: Sequence[int]
    blocks: int
    attention_levels: Sequence[int]
    head_channels: int
    dropout: float
    dims: int = 2

    def __post_init__(self) -> None:
        check_levels(self.attention_levels, self.levels)

    @property
    def widths(self) -> list[int]:
        return [self.channels * m for m in self.channel_mult]

    @property
    def embedding(self) -> int:
        """Width of the embedding of noise and label."""
        return max(self.widths)

    def block(self, c_in: int, c: int, *, encoder: bool, attend: bool, resample: nn.Module | None = None) -> Block:
        attention = CosineAttention(c, self.head_channels, ATTENTION, self.dims) if attend else None
        settings = {"encoder": encoder, "dropout": self.dropout, "resample": resample, "attention": attention}
        return Block(c_in, c, self.embedding, **settings, dims=self.dims)

    def down(self, c_in: int, level: int) -> Block:
        return self.block(c_in, self.widths[level], encoder=True, attend=level in self.attention_levels)

    def half(self, c: int) -> Block:
        return self.block(c, c, encoder=True, attend=False, resample=mean_of_halves(self.dims))

    def middle(self, c: int) -> nn.ModuleList:
        return nn.ModuleList(self.block(c, c, encoder=False, attend=attend) for attend in (True, False))

    def up(self, c_in: int, level: int, last: bool) -> Block:
        return self.block(c_in, self.widths[level], encoder=False, attend=level in self.attention_levels)

    def double(self, c: int) -> Block:
        return self.block(c, c, encoder=False, attend=False, resample=nn.Upsample(scale_factor=2.0))


class EDM2UNet(UNetSkeleton):
    """F(x (B, C, H, W), c_noise (B,), signals) ↦ (B, C, H, W), for any H and W of at least ``min_size``.

    The network of Karras et al. 2024 (arXiv:2312.02696, config G): activations have magnitude 1 at every depth,
    whatever the weights. In training every forward pass first sets the weights to magnitude 1, which changes no answer,
    so that averaged weights, which are shorter, need no care. Made for inputs of magnitude 1, as parameterization=edm
    gives.

    Level l has ``channels * channel_mult[l]`` channels at 1/2^l of the resolution and ``blocks`` blocks on the way
    down, one more on the way up, where every activation of the way down is concatenated. An odd size is halved upwards,
    7 to 4, and the row and column too many are cut off on the way up. ``attention_levels`` are levels, not pixel sizes.

    ``num_classes`` > 0 adds a class embedding for the signal ``label``. Without a label the noise embedding stands
    alone, at magnitude 1 like the two together. ``checkpointing`` recomputes each block in the backward pass: less
    memory for about a third more time. With ``learned_variance`` 2 C channels come out. The output starts at zero.
    ``dims`` as in ``UNet``.

    ``image_channels`` > 0 reads pictures as ``UNet`` does: a convolution of them, times a gain that starts at zero, is
    added to the first activation. A gain of g brings that to magnitude sqrt(1 + g²), which the paper does not have.
    ``reads_end`` adds that of ``end``, times such a gain, to the embedding, ``reads_guidance_scale`` that of the scale.
    """

    def __init__(
        self,
        in_channels: Width,
        channels: Width = 128,
        channel_mult: Multiples = (1, 2, 3, 4),
        blocks: Depth = 3,
        attention_levels: Levels = (2, 3),
        head_channels: WidthOrNone = 64,
        dropout: BelowOne = 0.0,
        num_classes: Classes = 0,
        checkpointing: bool = False,
        learned_variance: bool = False,
        dims: Axes = 2,
        image_channels: ImageChannels = 0,
        reads_end: bool = False,
        reads_guidance_scale: bool = False,
    ):
        super().__init__()
        stages = EDM2Stages(channels, channel_mult, blocks, attention_levels, head_channels, dropout, dims)
        self.dims = dims
        self.min_size = stages.min_size
        self.blocks = blocks
        self.reads = reads(
            num_classes, image_channels=image_channels, end=reads_end, guidance_scale=reads_guidance_scale
        )
        self.image_channels = image_channels
        self.checkpointing = checkpointing
        c = stages.widths[0]
        self.noise = nn.Sequential(MPFourier(c), MPLinear(c, stages.embedding))
        self.label = MPLabel(num_classes, stages.embedding) if num_classes else None
        self.first = MPConv(in_channels + 1, c, 3, dims)
        self.down, self.skip_channels = way_down(stages, c)
        self.middle = stages.middle(self.skip_channels[-1])
        self.up = way_up(stages, self.skip_channels)
        self.last = MPConv(c, channels_out(in_channels, learned_variance), 3, dims)
        self.gain = nn.Parameter(torch.zeros(()))
        wide = width(image_channels)
        self.image = MPConv(wide, c, 3, dims) if wide else None
        self.image_gain = nn.Parameter(torch.zeros(())) if wide else None
        self.end = MPNumber(c, stages.embedding) if reads_end else None
        self.guidance_scale = MPNumber(c, stages.embedding) if reads_guidance_scale else None

    def embed(self, c_noise: Tensor, signals: Signals) -> tuple[Tensor]:
        """The embedding of noise level and label. In training the weights are first set to magnitude 1."""
        if self.training:
            normalise_weights(self)
        label, embedding = label_index(signals, c_noise), self.noise(c_noise)
        if self.label:
            both = mp_sum(embedding, self.label(label.clamp_min(0)), CLASS)
            embedding = torch.where(label[:, None] < 0, embedding, both)
        return (mp_silu(embedding),)

    def beside(self, x: Tensor, signals: Signals) -> Mapping[int, Tensor]:
        seen = pictures(signals, x, self.image_channels)
        return NOTHING if seen is None else {0: self.image(seen, self.image_gain)}

    def enter(self, x: Tensor) -> Tensor:
        return self.first(F.pad(x, (*[0, 0] * self.dims, 0, 1), value=1.0))  # ones in the place of biases

    def join(self, h: Tensor, skip: Tensor) -> Tensor:
        return mp_cat(h, skip, SKIP)

    def leave(self, h: Tensor) -> Tensor:
        return self.last(h, self.gain)

    def encoder(self) -> Self:
        half = super().encoder()
        del half.gain
        return half
