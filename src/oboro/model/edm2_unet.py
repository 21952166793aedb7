"""The magnitude-preserving U-Net of EDM2."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.condition import Signals
from oboro.model.layers import channels_out, check_levels, check_size, run
from oboro.model.magnitude import (
    CosineAttention,
    MPConv,
    MPFourier,
    MPLabel,
    MPLinear,
    mp_cat,
    mp_silu,
    mp_sum,
    normalise_weights,
    pixel_norm,
)
from oboro.model.signals import label_index, reads

# The balances of config G (arXiv:2312.02696): share of the residual branch, of attention, of the class, of
# the skip connection.
RESIDUAL, ATTENTION, CLASS, SKIP = 0.3, 0.3, 0.5, 0.5
CLIP = 256.0  # activations stay this far inside of half precision


class Residual(nn.Module):
    """conv(dropout(mp_silu(conv(mp_silu(x)) (1 + gain embedding wᵀ)))), with a learned ``gain`` that starts at 0."""

    def __init__(self, in_channels: int, channels: int, embedding: int, dropout: float):
        super().__init__()
        self.conv1 = MPConv(in_channels, channels, 3)
        self.embedding = MPLinear(embedding, channels)
        self.gain = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(dropout)
        self.conv2 = MPConv(channels, channels, 3)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale = 1 + self.embedding(embedding, self.gain)
        h = mp_silu(self.conv1(mp_silu(x)) * scale[:, :, None, None])
        return self.conv2(self.dropout(h))


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
    ):
        super().__init__()
        self.encoder = encoder
        self.resample = resample or nn.Identity()
        self.skip = MPConv(in_channels, channels, 1) if in_channels != channels else nn.Identity()
        self.residual = Residual(channels if encoder else in_channels, channels, embedding, dropout)
        self.attention = attention or nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.resample(x)
        if self.encoder:
            x = pixel_norm(self.skip(x))
            x = mp_sum(x, self.residual(x, embedding), RESIDUAL)
        else:
            x = mp_sum(self.skip(x), self.residual(x, embedding), RESIDUAL)
        return self.attention(x).clamp(-CLIP, CLIP)


class EDM2UNet(nn.Module):
    """F(x (B, C, H, W), c_noise (B,), cond) ↦ (B, C, H, W), for any H and W of at least ``min_size``.

    The network of Karras et al. 2024 (arXiv:2312.02696, config G): activations have magnitude 1 at every depth,
    whatever the weights. In training every forward pass first sets the weights to magnitude 1, which changes no answer,
    so that averaged weights, which are shorter, need no care. Made for inputs of magnitude 1, as parameterization=edm
    gives.

    Level l has ``channels * channel_mult[l]`` channels at 1/2^l of the resolution and ``blocks`` blocks on the way
    down, one more on the way up, where every activation of the way down is concatenated. An odd size is halved upwards,
    7 to 4, and the row and column too many are cut off on the way up. ``attention_levels`` are levels, not pixel sizes.

    ``num_classes`` > 0 adds a class embedding; ``cond`` may then hold ``label`` (B,), where -1, like a missing key,
    means no label: the noise embedding stands alone then, at magnitude 1 like the two together. ``checkpointing``
    recomputes each block in the backward pass: less memory for about a third more time. With ``learned_variance`` 2 C
    channels come out. The output starts at zero.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention_levels: Sequence[int] = (2, 3),
        head_channels: int = 64,
        dropout: float = 0.0,
        num_classes: int = 0,
        checkpointing: bool = False,
        learned_variance: bool = False,
    ):
        super().__init__()
        levels = len(channel_mult)
        check_levels(attention_levels, levels)
        self.min_size = 2 ** (levels - 1)
        self.num_classes = num_classes
        self.reads = reads(num_classes)
        self.checkpointing = checkpointing
        widths = [channels * m for m in channel_mult]
        embedding = max(widths)
        self.noise = nn.Sequential(MPFourier(widths[0]), MPLinear(widths[0], embedding))
        self.label = MPLabel(num_classes, embedding) if num_classes else None

        def block(c_in: int, c: int, encoder: bool, attend: bool, resample: nn.Module | None = None) -> Block:
            attention = CosineAttention(c, head_channels, ATTENTION) if attend else None
            return Block(c_in, c, embedding, encoder=encoder, dropout=dropout, resample=resample, attention=attention)

        self.first = MPConv(in_channels + 1, widths[0], 3)
        self.down = nn.ModuleList()
        c, skips = widths[0], [widths[0]]
        for level in range(levels):
            for _ in range(blocks):
                self.down.append(block(c, widths[level], True, level in attention_levels))
                c = widths[level]
                skips.append(c)
            if level < levels - 1:
                self.down.append(block(c, c, True, False, nn.AvgPool2d(2, ceil_mode=True)))
                skips.append(c)
        self.middle = nn.ModuleList([block(c, c, False, True), block(c, c, False, False)])
        self.up = nn.ModuleList()  # one list of blocks for every skip connection
        for level in reversed(range(levels)):
            for i in range(blocks + 1):
                stages = nn.ModuleList([block(c + skips.pop(), widths[level], False, level in attention_levels)])
                c = widths[level]
                if level > 0 and i == blocks:
                    stages.append(block(c, c, False, False, nn.Upsample(scale_factor=2.0)))
                self.up.append(stages)
        self.last = MPConv(c, channels_out(in_channels, learned_variance), 3)
        self.gain = nn.Parameter(torch.zeros(()))

    def _embedding(self, c_noise: Tensor, signals: Signals) -> Tensor:
        label, embedding = label_index(signals, c_noise), self.noise(c_noise)
        if self.label:
            both = mp_sum(embedding, self.label(label.clamp_min(0)), CLASS)
            embedding = torch.where(label[:, None] < 0, embedding, both)
        return mp_silu(embedding)

    def forward(self, x: Tensor, c_noise: Tensor, signals: Signals) -> Tensor:
        """Raises ``ValueError`` for an H×W it cannot halve."""
        check_size(x, self.min_size)
        if self.training:
            normalise_weights(self)
        embedding = self._embedding(c_noise, signals)
        h = self.first(F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0))  # a channel of ones in the place of biases
        skips = [h]
        for stage in self.down:
            h = run(stage, h, embedding, recompute=self.checkpointing)
            skips.append(h)
        for stage in self.middle:
            h = run(stage, h, embedding, recompute=self.checkpointing)
        for stages in self.up:
            skip = skips.pop()
            h = mp_cat(h[..., : skip.shape[-2], : skip.shape[-1]], skip, SKIP)
            for stage in stages:
                h = run(stage, h, embedding, recompute=self.checkpointing)
        return self.last(h, self.gain)
