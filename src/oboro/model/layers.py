"""Layers that the networks share."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oboro.base.errors import UserError


def check_levels(attention_levels: Sequence[int], levels: int) -> None:
    """Raises ``UserError`` unless all are in 0 … levels - 1."""
    if not all(0 <= level < levels for level in attention_levels):
        raise UserError(
            f"model.attention_levels={list(attention_levels)} names a level that does not exist; "
            f"with {levels} entries in model.channel_mult use levels 0 to {levels - 1}."
        )


def check_size(x: Tensor, least: int) -> None:
    """Raises ``ValueError`` where H or W is below ``least``, the power of two by which a network divides them."""
    if min(x.shape[-2:]) < least:
        raise ValueError(f"{tuple(x.shape[-2:])} cannot be halved down to 1/{least}")


def run(stage: nn.Module, *args: Tensor | None, recompute: bool) -> Tensor:
    """stage(*args); with ``recompute`` its activations are not kept but computed again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(stage, *args, use_reentrant=False)
    return stage(*args)


def group_norm(channels: int, groups: int | None = None, eps: float = 1e-6) -> nn.GroupNorm:
    """GroupNorm with ``groups``, or with the most, at most 32, that divide ``channels`` and hold at least 4 of them.

    Raises ``UserError`` where ``groups`` do not divide ``channels``.
    """
    if groups is None:
        groups = next(g for g in range(min(32, max(channels // 4, 1)), 0, -1) if channels % g == 0)
    if channels % groups:
        raise UserError(f"{channels} channels do not split into {groups} groups; set groups to a divisor.")
    return nn.GroupNorm(groups, channels, eps=eps)


def zero(module: nn.Module) -> nn.Module:
    """``module`` with all parameters 0: the branch that it ends starts as the identity."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def channels_out(in_channels: int, learned_variance: bool) -> int:
    """C of the prediction, and another C that ``Denoiser.with_variance`` reads."""
    return 2 * in_channels if learned_variance else in_channels


class NoiseEmbedding(nn.Module):
    """c_noise (B,) ↦ (B, dim): sines and cosines at frequencies from 1 to 100 rad per unit, and a two-layer MLP.

    c_noise = log(sigma / alpha) / 4 moves by about 0.25 per factor e of noise, and spans 5 units at most.
    """

    def __init__(self, channels: int, dim: int):
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(0, 2, channels // 2), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * (channels // 2), dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, c_noise: Tensor) -> Tensor:
        angle = c_noise.float()[:, None] * self.frequencies
        return self.mlp(torch.cat([angle.cos(), angle.sin()], 1).to(c_noise.dtype))


class LabelEmbedding(nn.Module):
    """Label (B,) ↦ (B, dim); the last row stands for a dropped label (-1)."""

    def __init__(self, num_classes: int, dim: int):
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, label: Tensor) -> Tensor:
        return self.table(torch.where(label < 0, self.num_classes, label))


class ResidualBlock(nn.Module):
    """h + conv(dropout(silu(modulate(norm(conv(silu(norm(h)))))))): the block of DDPM, improved DDPM and ADM.

    ``scale_shift``: the embedding gives (scale, shift) after the second norm (arXiv:2105.05233, sec. 3, AdaGN), else
    it is added before it (DDPM). ``resample``: both branches are resized by it before their convolution (BigGAN).
    ``project``: the skip branch gets a 1×1 convolution even where the number of channels stays (DDPM++).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        embedding: int,
        *,
        dropout: float,
        scale_shift: bool,
        resample: nn.Module | None = None,
        project: bool = False,
        norm: Callable[[int], nn.GroupNorm] = group_norm,
    ):
        super().__init__()
        self.norm1 = norm(in_channels)
        self.resample = resample or nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.embedding = nn.Linear(embedding, 2 * channels if scale_shift else channels)
        self.norm2 = norm(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, channels, 1) if project or in_channels != channels else nn.Identity()
        self.scale_shift = scale_shift

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        e = self.embedding(F.silu(embedding))[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + e)
        return self.skip(self.resample(x)) + self.conv2(self.dropout(F.silu(h)))


def count_heads(channels: int, head_channels: int) -> int:
    """How many heads of ``head_channels`` there are, one for 0. Raises ``UserError`` where they leave a rest."""
    heads = max(1, channels // head_channels) if head_channels else 1
    if channels % heads:
        raise UserError(
            f"{channels} channels do not split into heads of {head_channels}; set model.head_channels to a divisor."
        )
    return heads


class SelfAttention(nn.Module):
    """x + proj(softmax(q kᵀ / sqrt(d)) v) over all pixels, heads of ``head_channels`` (all channels when 0)."""

    def __init__(self, channels: int, head_channels: int, norm: Callable[[int], nn.GroupNorm] = group_norm):
        super().__init__()
        self.heads = count_heads(channels, head_channels)
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).view(b, 3, self.heads, c // self.heads, height * width).transpose(-1, -2)
        h = F.scaled_dot_product_attention(*qkv.unbind(1)).transpose(-1, -2)
        return x + self.proj(h.reshape(b, c, height, width))


class AttentionPool(nn.Module):
    """(B, C, H, W) ↦ (B, C): proj(softmax(q kᵀ / sqrt(d)) v) with the mean over pixels as the only query.

    The query is among the keys, too, as in the pooling of CLIP (Radford et al. 2021, arXiv:2103.00020, sec. 2.4),
    which ADM's classifier uses; without its position embedding, so that any H and W will do.
    """

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.heads = count_heads(channels, head_channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        pixels = x.flatten(2).mT
        mean = pixels.mean(1, keepdim=True)
        k, v = self.key_value(torch.cat([mean, pixels], 1)).chunk(2, -1)
        q, k, v = (a.view(b, -1, self.heads, c // self.heads).transpose(1, 2) for a in (self.query(mean), k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).reshape(b, c))


class MeanPool(nn.Module):
    """(B, C, H, W) ↦ (B, C): the mean over pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Downsample(nn.Sequential):
    """Halves H and W with a strided 3×3 convolution (DDPM)."""

    def __init__(self, channels: int):
        super().__init__(nn.Conv2d(channels, channels, 3, stride=2, padding=1))


class Upsample(nn.Sequential):
    """Doubles H and W: nearest neighbour, then a 3×3 convolution (DDPM)."""

    def __init__(self, channels: int):
        super().__init__(nn.Upsample(scale_factor=2.0), nn.Conv2d(channels, channels, 3, padding=1))
