"""The U-Net of DDPM's, LDM's and Stable Diffusion's published weights."""

from collections.abc import Sequence
from functools import partial
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.condition import Signals
from oboro.model.autoencoder import PaddedDownsample
from oboro.model.layers import (
    Downsample,
    ResidualBlock,
    SelfAttention,
    Upsample,
    channels_out,
    check_levels,
    check_size,
    group_norm,
    run,
    zero,
)
from oboro.model.signals import label_index, reads
from oboro.model.unet import Resample, Stage
from oboro.schedule import Discrete

FRACTION = 16


class StepEmbedding(nn.Module):
    """c_noise (B,) ↦ (B, dim): sines and cosines of the index i in ``table``, and a two-layer MLP.

    i solves log_snr(t) = -8 c_noise for t = (i + 1) / T, so that the network knows noise levels alone and may be
    sampled on every schedule; it is held in [0, T - 1]. Single precision tells i to about 1e-3, so i is rounded to
    1/16: on the table it is exactly the whole number that the weights were trained with. The frequencies are
    10000^(-k / (n - freq_shift)), k = 0 … n - 1 with n = channels / 2 (DDPM, arXiv:2006.11239, app. B).
    """

    def __init__(self, channels: int, dim: int, table: Discrete, cos_first: bool, freq_shift: float):
        super().__init__()
        self.half = channels // 2
        self.mlp = nn.Sequential(nn.Linear(2 * self.half, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.table = table
        self.freq_shift = freq_shift
        self.cos_first = cos_first

    def index(self, c_noise: Tensor) -> Tensor:
        """i (B,), float64."""
        i = self.table.t_from_log_snr(-8 * c_noise.double()) * self.table.steps - 1
        return (i.clamp(0, self.table.steps - 1) * FRACTION).round() / FRACTION

    def forward(self, c_noise: Tensor) -> Tensor:
        # No buffer: rounded to half precision, frequencies would be a radian off at index 1000.
        precise = torch.promote_types(c_noise.dtype, torch.float32)
        k = torch.arange(self.half, device=c_noise.device, dtype=precise)
        angle = self.index(c_noise).to(precise)[:, None] * torch.exp(-log(10000) * k / (self.half - self.freq_shift))
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
        return self.proj(F.scaled_dot_product_attention(q, k, v, keep).transpose(1, 2).flatten(2))


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

    def __init__(self, length: int, dim: int):
        super().__init__()
        self.register_buffer("tokens", torch.zeros(length, dim))


class LDMUNet(nn.Module):
    """F(x (B, C, H, W), c_noise (B,), cond) ↦ (B, C, H, W): the layers of diffusers' ``UNet2DModel`` (``text_dim`` 0)
    and ``UNet2DConditionModel``, whose weights ``oboro.interop`` brings here and back.

    Ho et al. 2020 (arXiv:2006.11239, app. B); Rombach et al. 2022 (arXiv:2112.10752, app. E.2). Level l has
    ``widths[l]`` channels at 1/2^l of the resolution, ``blocks`` residual blocks on the way down and one more on the
    way up. Those of ``attention_levels`` have attention with ``heads[l]`` heads after each block, the middle with
    ``heads[-1]`` where ``middle_attention``: over pixels, or with a ``text_dim`` transformers of ``depth`` blocks.

    The noise level is told as the index in ``table`` (``StepEmbedding``). ``cond`` may hold ``label`` (B,), where -1,
    like a missing key, adds nothing; with a ``text_dim`` also ``text`` (B, L, text_dim) and ``text_mask``. No text, a
    mask without any True or missing keys, is ``empty_text``, (L, text_dim) of it. ``text_pooled`` is not read.

    ``padded_downsample`` pads halving convolutions on the right and below alone; ``groups`` and ``eps`` are those of
    the normalisations. ``checkpointing`` and ``learned_variance`` are as in ``UNet``.
    """

    def __init__(
        self,
        in_channels: int,
        table: Discrete,
        widths: Sequence[int] = (320, 640, 1280, 1280),
        blocks: int = 2,
        attention_levels: Sequence[int] = (0, 1, 2),
        heads: Sequence[int] = (8, 8, 8, 8),
        middle_attention: bool = True,
        depth: int = 1,
        dropout: float = 0.0,
        num_classes: int = 0,
        text_dim: int = 0,
        empty_text: EmptyText | None = None,
        groups: int | None = 32,
        eps: float = 1e-5,
        scale_shift: bool = False,
        cos_first: bool = True,
        freq_shift: float = 0.0,
        padded_downsample: bool = False,
        checkpointing: bool = False,
        learned_variance: bool = False,
    ):
        super().__init__()
        check_levels(attention_levels, len(widths))
        if len(heads) != len(widths) or any(widths[i] % heads[i] for i in (*attention_levels, -1)):
            raise UserError(
                f"model.heads={list(heads)} do not divide model.widths={list(widths)}; give each level a divisor."
            )
        self.min_size = 2 ** (len(widths) - 1)
        self.num_classes = num_classes
        self.text_dim = text_dim
        self.reads = reads(num_classes, text_dim)
        self.checkpointing = checkpointing
        dim, norm = 4 * widths[0], partial(group_norm, groups=groups, eps=eps)
        self.noise = StepEmbedding(widths[0], dim, table, cos_first, freq_shift)
        self.label = nn.Embedding(num_classes, dim) if num_classes else None
        self.empty_text = (empty_text or EmptyText(77, text_dim)) if text_dim else None

        def stage(c_in: int, level: int, attend: bool) -> Stage:
            c = widths[level]
            block = ResidualBlock(c_in, c, dim, dropout=dropout, scale_shift=scale_shift, norm=norm)
            if not attend:
                return Stage(block)
            if text_dim:
                return Stage(block, cross=TextTransformer(c, text_dim, heads[level], depth, groups))
            return Stage(block, SelfAttention(c, c // heads[level], norm))

        half = PaddedDownsample if padded_downsample else Downsample
        self.first = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down, skips = nn.ModuleList(), [widths[0]]
        for level, c in enumerate(widths):
            for _ in range(blocks):
                self.down.append(stage(skips[-1], level, level in attention_levels))
                skips.append(c)
            if level < len(widths) - 1:
                self.down.append(Resample(half(c)))
                skips.append(c)
        c = widths[-1]
        self.middle = nn.ModuleList([stage(c, -1, middle_attention), stage(c, -1, False)])
        self.up = nn.ModuleList()  # one list of stages for every skip connection
        for level in reversed(range(len(widths))):
            for i in range(blocks + 1):
                stages = nn.ModuleList([stage(c + skips.pop(), level, level in attention_levels)])
                c = widths[level]
                if level > 0 and i == blocks:
                    stages.append(Resample(Upsample(c)))
                self.up.append(stages)
        self.last = nn.Sequential(
            norm(c), nn.SiLU(), zero(nn.Conv2d(c, channels_out(in_channels, learned_variance), 3, padding=1))
        )

    def _told(self, c_noise: Tensor, signals: Signals) -> tuple[Tensor, Tensor | None, Tensor | None]:
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
        there = mask.any(1, keepdim=True)
        longer = text.shape[1] - empty.shape[1]  # the shorter one is filled up with what nobody attends to
        text, mask = F.pad(text, (0, 0, 0, max(-longer, 0))), F.pad(mask, (0, max(-longer, 0)))
        empty, nothing = F.pad(empty, (0, 0, 0, max(longer, 0))), F.pad(nothing, (0, max(longer, 0)))
        return embedding, torch.where(there[:, :, None], text, empty), torch.where(there, mask, nothing)

    def forward(self, x: Tensor, c_noise: Tensor, signals: Signals) -> Tensor:
        """Raises ``ValueError`` for an H×W it cannot halve."""
        check_size(x, self.min_size)
        told = self._told(c_noise, signals)
        h = self.first(x)
        skips = [h]
        for stage in self.down:
            h = run(stage, h, *told, recompute=self.checkpointing)
            skips.append(h)
        for stage in self.middle:
            h = run(stage, h, *told, recompute=self.checkpointing)
        for stages in self.up:
            skip = skips.pop()
            h = torch.cat([h[..., : skip.shape[-2], : skip.shape[-1]], skip], 1)
            for stage in stages:
                h = run(stage, h, *told, recompute=self.checkpointing)
        return self.last(h)
