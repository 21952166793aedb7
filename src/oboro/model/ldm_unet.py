"""The U-Net of DDPM's, LDM's and Stable Diffusion's published weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.precision import double
from oboro.base.ranges import BelowOne, Classes, Depth, Levels, Positive, Width, WidthOrNone, Widths
from oboro.condition import Signals
from oboro.model.attention import attend
from oboro.model.autoencoder import PaddedDownsample
from oboro.model.layers import (
    Downsample,
    ResidualBlock,
    SelfAttention,
    Upsample,
    channels_out,
    check_levels,
    group_norm,
    zero,
)
from oboro.model.numbers import NumberEmbedding
from oboro.model.signals import ImageChannels, label_index, reads, width
from oboro.model.unet import Resample, Stage
from oboro.model.unet_skeleton import Stages, UNetSkeleton, way_down, way_up
from oboro.schedule import Discrete

FRACTION = 16


@dataclass(frozen=True)
class StepIndex:
    """How an ``LDMUNet`` reads the noise level: as its index in ``table`` (``StepEmbedding``)."""

    table: Discrete
    cos_first: bool = True
    freq_shift: float = 0.0


class StepEmbedding(nn.Module):
    """c_noise (B,) ↦ (B, dim): sines and cosines of the index i in ``table``, and a two-layer MLP.

    i solves log_snr(t) = -8 c_noise for t = (i + 1) / T, so that the network knows noise levels alone and may be
    sampled on every schedule; it is held in [0, T - 1]. Single precision tells i to about 1e-3, so i is rounded to
    1/16: on the table it is exactly the whole number that the weights were trained with. The frequencies are
    10000^(-k / (n - freq_shift)), k = 0 … n - 1 with n = channels / 2 (DDPM, arXiv:2006.11239, app. B).
    """

    def __init__(self, channels: int, dim: int, noise: StepIndex):
        super().__init__()
        self.half = channels // 2
        self.mlp = nn.Sequential(nn.Linear(2 * self.half, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.table = noise.table
        self.freq_shift = noise.freq_shift
        self.cos_first = noise.cos_first

    def index(self, c_noise: Tensor) -> Tensor:
        """i (B,), float64."""
        i = self.table.t_from_log_snr(-8 * double(c_noise)) * self.table.steps - 1
        return (i.clamp(0, self.table.steps - 1) * FRACTION).round() / FRACTION

    def forward(self, c_noise: Tensor) -> Tensor:
        # No buffer: rounded to half precision, frequencies would be a radian off at index 1000.
        precise = torch.promote_types(c_noise.dtype, torch.float32)
        k = torch.arange(self.half, device=c_noise.device, dtype=precise)
        index = self.index(c_noise).to(precise).to(c_noise.device)
        angle = index[:, None] * torch.exp(-log(10000) * k / (self.half - self.freq_shift))
        waves = [angle.cos(), angle.sin()] if self.cos_first else [angle.sin(), angle.cos()]
        return self.mlp(torch.cat(waves, 1).to(c_noise.dtype))


class Attention(nn.Module):
    """proj(softmax(q kᵀ / sqrt(d)) v) (B, N, dim): queries from h (B, N, dim), keys and values from ``seen``."""

    def __init__(self, dim: int, seen_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(seen_dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, h: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.query(h).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(seen).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        keep = None if mask is None else mask[:, None, None]
        return self.proj(attend(q, k, v, keep).transpose(1, 2).flatten(2))


class TextBlock(nn.Module):
    """Self-attention, attention to the text, W2 (a gelu(b)) with (a, b) = W1 h: each on a LayerNorm of h, and added.

    The gate is GEGLU (Shazeer 2020, arXiv:2002.05202, eq. 6).
    """

    def __init__(self, dim: int, text_dim: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.cross = Attention(dim, text_dim, heads)
        self.norm3 = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 8 * dim)
        self.out = nn.Linear(4 * dim, dim)

    def forward(self, h: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        n = self.norm1(h)
        h = h + self.attention(n, n)
        h = h + self.cross(self.norm2(h), text, mask)
        a, b = self.gate(self.norm3(h)).chunk(2, -1)
        return h + self.out(a * F.gelu(b))


class TextTransformer(nn.Module):
    """x + outward(blocks(inward(norm(x)))) over the pixels of x (B, C, H, W): LDM's (arXiv:2112.10752, app. E.2.1)."""

    def __init__(self, channels: int, text_dim: int, heads: int, depth: int, groups: int | None):
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.inward = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(TextBlock(channels, text_dim, heads) for _ in range(depth))
        self.outward = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        h = self.inward(self.norm(x).flatten(2).mT)
        for block in self.blocks:
            h = block(h, text, mask)
        return x + self.outward(h).mT.view_as(x)


class EmptyText(nn.Module):
    """What stands for no text, the buffer ``tokens`` (length, dim): zeros, unless an encoder's answer is loaded."""

    def __init__(self, length: Width, dim: Width):
        super().__init__()
        self.register_buffer("tokens", torch.zeros(length, dim))


@dataclass(frozen=True)
class LDMAttention:
    """Where an ``LDMUNet`` attends: on ``levels`` after each block, and in its middle where ``middle``.

    Level l has ``heads[l]`` heads and the middle ``heads[-1]``; a transformer that reads a text has ``depth`` blocks.
    """

    levels: Levels = (0, 1, 2)
    heads: Annotated[Sequence[Depth], Len(1, 16)] = (8, 8, 8, 8)
    middle: bool = True
    depth: Depth = 1


@dataclass(frozen=True)
class GroupNormSettings:
    """The normalisations of a network: ``groups`` (None: those of ``group_norm``) and what is added to the variance."""

    groups: Width | None = 32
    eps: Positive = 1e-5


@dataclass(frozen=True)
class LDMStages(Stages):
    """Makes the stages of an ``LDMUNet``; the settings are its own."""

    widths: Sequence[int]
    blocks: int
    attention: LDMAttention
    norm: GroupNormSettings
    dropout: float
    scale_shift: bool
    text_dim: int
    padded_downsample: bool

    def __post_init__(self) -> None:
        check_levels(self.attention.levels, self.levels)
        heads, widths = self.attention.heads, self.widths
        if len(heads) != len(widths) or any(widths[i] % heads[i] for i in (*self.attention.levels, -1)):
            raise UserError(
                f"model.attention.heads={list(heads)} do not divide model.widths={list(widths)}; give each level a "
                "divisor."
            )

    @property
    def embedding(self) -> int:
        """Width of the embedding of noise and label."""
        return 4 * self.widths[0]

    def group_norm(self, c: int) -> nn.GroupNorm:
        return group_norm(c, self.norm.groups, self.norm.eps)

    def stage(self, c_in: int, level: int, attend: bool) -> Stage:
        c, heads = self.widths[level], self.attention.heads[level]
        settings = {"dropout": self.dropout, "scale_shift": self.scale_shift, "norm": self.group_norm}
        block = ResidualBlock(c_in, c, self.embedding, **settings)
        if not attend:
            return Stage(block)
        if self.text_dim:
            transformer = TextTransformer(c, self.text_dim, heads, self.attention.depth, self.norm.groups)
            return Stage(block, cross=transformer)
        return Stage(block, SelfAttention(c, c // heads, self.group_norm))

    def down(self, c_in: int, level: int) -> Stage:
        return self.stage(c_in, level, level in self.attention.levels)

    def half(self, c: int) -> Resample:
        return Resample(PaddedDownsample(c) if self.padded_downsample else Downsample(c))

    def middle(self, c: int) -> nn.ModuleList:
        return nn.ModuleList([self.stage(c, -1, self.attention.middle), self.stage(c, -1, False)])

    def up(self, c_in: int, level: int, last: bool) -> Stage:
        return self.down(c_in, level)

    def double(self, c: int) -> Resample:
        return Resample(Upsample(c))


class LDMUNet(UNetSkeleton):
    """F(x (B, C, H, W), c_noise (B,), signals) ↦ (B, C, H, W): the layers of diffusers' ``UNet2DModel`` (``text_dim``
    0) and ``UNet2DConditionModel``, whose weights ``oboro.interop`` brings here and back.

    Ho et al. 2020 (arXiv:2006.11239, app. B); Rombach et al. 2022 (arXiv:2112.10752, app. E.2). Level l has
    ``widths[l]`` channels at 1/2^l of the resolution, ``blocks`` residual blocks on the way down and one more on the
    way up. ``attention`` says which are followed by attention: over pixels, or with a ``text_dim`` by transformers.

    The noise level is read as ``noise`` says, the signals ``label``, of which a dropped one adds nothing, and, with a
    ``text_dim``, ``text``. No text is ``empty_text``, (L, text_dim) of it. The vector of the whole text is not read.

    ``padded_downsample`` pads halving convolutions on the right and below alone. ``scale_shift``, ``checkpointing``,
    ``learned_variance``, ``image_channels``, ``reads_end`` and ``reads_guidance_scale`` are as in ``UNet``.
    """

    dims = 2

    def __init__(
        self,
        in_channels: Width,
        noise: StepIndex,
        widths: Widths = (320, 640, 1280, 1280),
        blocks: Depth = 2,
        attention: LDMAttention = LDMAttention(),
        norm: GroupNormSettings = GroupNormSettings(),
        dropout: BelowOne = 0.0,
        num_classes: Classes = 0,
        text_dim: WidthOrNone = 0,
        empty_text: EmptyText | None = None,
        scale_shift: bool = False,
        padded_downsample: bool = False,
        checkpointing: bool = False,
        learned_variance: bool = False,
        image_channels: ImageChannels = 0,
        reads_end: bool = False,
        reads_guidance_scale: bool = False,
    ):
        super().__init__()
        block = (dropout, scale_shift, text_dim, padded_downsample)
        stages = LDMStages(widths, blocks, attention, norm, *block)
        self.min_size = stages.min_size
        self.blocks = blocks
        self.reads = reads(num_classes, text_dim, image_channels, reads_end, reads_guidance_scale)
        self.image_channels = image_channels
        self.text_dim = text_dim
        self.checkpointing = checkpointing
        self.noise = StepEmbedding(widths[0], stages.embedding, noise)
        self.label = nn.Embedding(num_classes, stages.embedding) if num_classes else None
        self.empty_text = (empty_text or EmptyText(77, text_dim)) if text_dim else None
        self.first = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down, self.skip_channels = way_down(stages, widths[0])
        self.middle = stages.middle(self.skip_channels[-1])
        self.up = way_up(stages, self.skip_channels)
        last = nn.Conv2d(widths[0], channels_out(in_channels, learned_variance), 3, padding=1)
        self.last = nn.Sequential(stages.group_norm(widths[0]), nn.SiLU(), zero(last))
        wide = width(image_channels)
        self.image = zero(nn.Conv2d(wide, widths[0], 3, padding=1, bias=False)) if wide else None
        self.end = NumberEmbedding(stages.embedding) if reads_end else None
        self.guidance_scale = NumberEmbedding(stages.embedding) if reads_guidance_scale else None

    def embed(self, c_noise: Tensor, signals: Signals) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The embedding of noise level and label; tokens of a text and their mask, where the network reads one."""
        label, embedding = label_index(signals, c_noise), self.noise(c_noise)
        if self.label:
            embedding = embedding + torch.where(label[:, None] < 0, 0.0, self.label(label.clamp(min=0)))
        if not self.text_dim:
            return embedding, None, None
        empty = self.empty_text.tokens.to(embedding.dtype).expand(len(c_noise), -1, -1)
        nothing = torch.ones(empty.shape[:2], dtype=torch.bool, device=empty.device)
        if "text" not in signals:
            return embedding, empty, nothing
        text, mask = signals["text"].tokens.to(empty.dtype), signals["text"].mask
        given = mask.any(1, keepdim=True)
        longer = text.shape[1] - empty.shape[1]  # the shorter one is filled up with what nobody attends to
        text, mask = F.pad(text, (0, 0, 0, max(-longer, 0))), F.pad(mask, (0, max(-longer, 0)))
        empty, nothing = F.pad(empty, (0, 0, 0, max(longer, 0))), F.pad(nothing, (0, max(longer, 0)))
        return embedding, torch.where(given[:, :, None], text, empty), torch.where(given, mask, nothing)
