"""The U-Nets of score matching by stochastic differential equations: DDPM++ and NCSN++."""

from collections.abc import Sequence
from math import pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.condition import Signals
from oboro.model.layers import (
    ResidualBlock,
    SelfAttention,
    channels_out,
    check_levels,
    check_size,
    group_norm,
    run,
    zero,
)
from oboro.model.signals import label_index, reads


class Filter(nn.Module):
    """The outer product of ``taps`` with itself, of sum 1, as a filter for every channel alone."""

    def __init__(self, taps: Sequence[float]):
        super().__init__()
        row = torch.tensor(taps, dtype=torch.float32)
        self.register_buffer("kernel", torch.outer(row, row)[None, None] / row.sum() ** 2, persistent=False)
        self.margin = (len(taps) - 1) // 2

    def weight(self, x: Tensor) -> Tensor:
        return self.kernel.to(x).expand(x.shape[1], -1, -1, -1)


def even(x: Tensor) -> Tensor:
    """x with its last row and column repeated where their number is odd."""
    return F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")


class FilterDown(Filter):
    """x ↦ every second row and column of x * filter: H and W are halved, upwards where they are odd."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(even(x), self.weight(x), stride=2, padding=self.margin, groups=x.shape[1])


class FilterUp(Filter):
    """The transpose of ``FilterDown``, times 4: H and W are doubled and the mean stays."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, 4 * self.weight(x), stride=2, padding=self.margin, groups=x.shape[1])


class ConvDown(Filter):
    """A 3×3 convolution, then the filter at every second row and column: halves H and W, upwards where they are odd.

    The plane around the image is zero; the convolution is not cut off before the filter has read it.
    """

    def __init__(self, taps: Sequence[float], in_channels: int, channels: int):
        super().__init__(taps)
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1 + self.margin)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(even(x))
        return F.conv2d(h, self.weight(h), stride=2, groups=h.shape[1])


class Stage(nn.Module):
    """A residual block, with or without self-attention after it; each sum of two branches is divided by sqrt(2)."""

    def __init__(self, block: ResidualBlock, attention: SelfAttention | None = None):
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        h = self.block(h, embedding) * sqrt(0.5)
        return self.attention(h) * sqrt(0.5) if self.attention else h


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
        self.text_dim = 0
        self.label = nn.Linear(num_classes, features) if num_classes else None
        self.mlp = nn.Sequential(nn.Linear(features, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, c_noise: Tensor, label: Tensor) -> Tensor:
        angle = c_noise.to(torch.promote_types(c_noise.dtype, torch.float32))[:, None] * self.frequencies
        features = torch.cat([angle.sin(), angle.cos()], 1).to(c_noise.dtype)
        if self.label:
            hot = F.one_hot(label.clamp_min(0), self.num_classes) * (label >= 0)[:, None]
            features = features + self.label(hot.to(features.dtype) * sqrt(self.num_classes))
        return self.mlp(features)


class SongUNet(nn.Module):
    """F(x (B, C, H, W), c_noise (B,), cond) ↦ (B, C, H, W), for any H and W of at least ``min_size``.

    DDPM++ and NCSN++ of Song et al. 2021 (arXiv:2011.13456) in the shape that Karras et al. 2022 gave them
    (arXiv:2206.00364, table 7 and app. F). What differs from ``UNet``: every sum of two branches is divided by
    sqrt(2); resizing, by the filter ``taps``, is inside of residual blocks, whose skip branch has a convolution then;
    on the way up there is attention only after the last block of a level; and the label enters before the MLP of the
    embedding. NCSN++ takes random Fourier features of the noise level (``fourier``) and feeds the image into every
    level of the way down by a chain of strided convolutions (``pyramid``).

    Level l has ``channels * channel_mult[l]`` channels at 1/2^l of the resolution. An odd size is halved upwards, 7 to
    4, and the row and column too many are cut off on the way up. ``attention_levels`` are levels, not pixel sizes.
    ``num_classes`` > 0 adds a class embedding; ``cond`` may then hold ``label`` (B,), where -1, like a missing key,
    means no label. ``checkpointing`` recomputes each stage in the backward pass: less memory for about a third more
    time. Convolutions that end a residual branch, and the last one, start at zero, where theirs start near it. With
    ``learned_variance`` 2 C channels come out.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 128,
        channel_mult: Sequence[int] = (2, 2, 2),
        blocks: int = 4,
        attention_levels: Sequence[int] = (1,),
        dropout: float = 0.13,
        noise_channels: int = 128,
        fourier: bool = False,
        pyramid: bool = False,
        taps: Sequence[float] = (1, 1),
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
        embedding = 4 * channels
        self.embedding = Embedding(noise_channels, embedding, num_classes, fourier)

        def stage(c_in: int, c: int, attend: bool = False, resample: nn.Module | None = None) -> Stage:
            settings = {"dropout": dropout, "scale_shift": False, "resample": resample, "project": resample is not None}
            return Stage(ResidualBlock(c_in, c, embedding, **settings), SelfAttention(c, 0) if attend else None)

        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.down = nn.ModuleList()  # one list of stages for every level
        self.pyramid = nn.ModuleList()
        c, chain, skips = channels, in_channels, [channels]
        for level in range(levels):
            stages = nn.ModuleList()
            if level > 0:
                stages.append(stage(c, c, resample=FilterDown(taps)))
                skips.append(c)
                if pyramid:
                    self.pyramid.append(ConvDown(taps, chain, c))
                    chain = c
            for _ in range(blocks):
                stages.append(stage(c, channels * channel_mult[level], level in attention_levels))
                c = channels * channel_mult[level]
                skips.append(c)
            self.down.append(stages)
        self.middle = nn.ModuleList([stage(c, c, attend=True), stage(c, c)])
        self.up = nn.ModuleList()  # one list of stages for every skip connection
        for level in reversed(range(levels)):
            for i in range(blocks + 1):
                attend = i == blocks and level in attention_levels
                stages = nn.ModuleList([stage(c + skips.pop(), channels * channel_mult[level], attend)])
                c = channels * channel_mult[level]
                if level > 0 and i == blocks:
                    stages.append(stage(c, c, resample=FilterUp(taps)))
                self.up.append(stages)
        last = nn.Conv2d(c, channels_out(in_channels, learned_variance), 3, padding=1)
        self.last = nn.Sequential(group_norm(c), nn.SiLU(), zero(last))
        self._initialise()

    def _initialise(self) -> None:
        """Glorot-uniform weights and no biases; zero stays what ends a branch."""
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim > 1 and not name.endswith(("conv2.weight", "proj.weight")) and not name.startswith("last"):
                nn.init.xavier_uniform_(p, gain=sqrt(0.2) if "qkv" in name else 1.0)

    def forward(self, x: Tensor, c_noise: Tensor, signals: Signals) -> Tensor:
        """Raises ``ValueError`` for an H×W it cannot halve."""
        check_size(x, self.min_size)
        embedding = self.embedding(c_noise, label_index(signals, c_noise))
        h, chain = self.first(x), x
        skips = [h]
        for level, stages in enumerate(self.down):
            for i, stage in enumerate(stages):
                h = run(stage, h, embedding, recompute=self.checkpointing)
                if self.pyramid and level > 0 and i == 0:
                    h = chain = (h + self.pyramid[level - 1](chain)) * sqrt(0.5)
                skips.append(h)
        for stage in self.middle:
            h = run(stage, h, embedding, recompute=self.checkpointing)
        for stages in self.up:
            skip = skips.pop()
            h = torch.cat([h[..., : skip.shape[-2], : skip.shape[-1]], skip], 1)
            for stage in stages:
                h = run(stage, h, embedding, recompute=self.checkpointing)
        return self.last(h)
