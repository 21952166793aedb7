"""Layers that the networks share."""

from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oboro.base.errors import UserError
from oboro.model.attention import attend
from oboro.model.dropout import Dropout
from oboro.model.pointwise import Pointwise1d, Pointwise2d, Pointwise3d, plain


def check_levels(attention_levels: Sequence[int], levels: int) -> None:
    """Raises ``UserError`` unless all are in 0 … levels - 1."""
    if not all(0 <= level < levels for level in attention_levels):
        raise UserError(
            f"model.attention_levels={list(attention_levels)} names a level that does not exist; "
            f"with {levels} entries in model.channel_mult use levels 0 to {levels - 1}."
        )


def check_size(x: Tensor, least: int, dims: int = 2) -> None:
    """Raises ``ValueError`` where x (B, C, ...) has other than ``dims`` axes of space, or one shorter than ``least``.

    ``least`` is the power of two by which a network divides them.
    """
    size = tuple(x.shape[2:])
    if len(size) != dims:
        raise ValueError(f"a network of {dims} dimensions cannot read a batch of shape {tuple(x.shape)}")
    if min(size) < least:
        raise ValueError(f"{size} cannot be halved down to 1/{least}")


def check_dims(dims: int) -> None:
    """Raises ``UserError`` for a number of axes that torch has no convolution for."""
    if dims not in (1, 2, 3):
        raise UserError(f"a network cannot have model.dims={dims}; set model.dims to 1, 2 or 3.")


def conv(
    dims: int,
    in_channels: int,
    channels: int,
    kernel: int = 3,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = True,
) -> nn.Module:
    """A convolution over ``dims`` axes, padded by default so that a ``kernel`` of odd length keeps the size."""
    check_dims(dims)
    padding = kernel // 2 if padding is None else padding
    of_one = kernel == stride == 1 and padding == 0
    kinds = (Pointwise1d, Pointwise2d, Pointwise3d) if of_one else (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layer = kinds[dims - 1]
    return layer(in_channels, channels, kernel, stride=stride, padding=padding, bias=bias)


def convolution(dims: int) -> Callable[..., Tensor]:
    """(x, weight, ...) ↦ x * weight over ``dims`` axes."""
    check_dims(dims)
    return (F.conv1d, F.conv2d, F.conv3d)[dims - 1]


def mean_of_halves(dims: int) -> nn.Module:
    """Halves each of ``dims`` axes, upwards where it is odd: means over 2×2 pixels, or those there are."""
    check_dims(dims)
    return (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims - 1](2, ceil_mode=True)


def over_space(e: Tensor, h: Tensor) -> Tensor:
    """e (B, C) as (B, C, 1, ...), with as many axes as h."""
    return e[(..., *[None] * (h.ndim - 2))]


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


def modulated(norm: nn.GroupNorm, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(1 + scale) norm(h) + shift for h (B, C, ...), scale and shift (B, C).

    In one pass where it can be: the B samples are taken for one of B C channels, in B times as many groups, of weight
    (1 + scale) weight and bias (1 + scale) bias + shift. A product and a sum that are broadcast over space take a CPU
    four times as long as the norm.
    """
    if not plain(h):
        return torch.addcmul(over_space(shift, h), norm(h), 1 + over_space(scale, h))
    b, c, *size = h.shape
    scale, shift = 1 + scale.to(norm.weight.dtype), shift.to(norm.weight.dtype)
    weight, bias = (scale * norm.weight).flatten(), torch.addcmul(shift, scale, norm.bias).flatten()
    return F.group_norm(h.view(1, b * c, *size), b * norm.num_groups, weight, bias, norm.eps).view(h.shape)


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
        place = label + (label >= self.num_classes)  # a class that there is not must not be the row of no label
        return self.table(torch.where(label < 0, self.num_classes, place))


class ResidualBlock(nn.Module):
    """h + conv(dropout(silu(modulate(norm(conv(silu(norm(h)))))))): the block of DDPM, improved DDPM and ADM.

    ``scale_shift``: the embedding gives (scale, shift) after the second norm (arXiv:2105.05233, sec. 3, AdaGN), else
    it is added before it (DDPM). ``resample``: both branches are resized by it before their convolution (BigGAN).
    ``project``: the skip branch gets a 1×1 convolution even where the number of channels stays (DDPM++). Convolutions
    are over ``dims`` axes.
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
        dims: int = 2,
    ):
        super().__init__()
        self.norm1 = norm(in_channels)
        self.resample = resample or nn.Identity()
        self.conv1 = conv(dims, in_channels, channels)
        self.embedding = nn.Linear(embedding, 2 * channels if scale_shift else channels)
        self.norm2 = norm(channels)
        self.dropout = Dropout(dropout)
        self.conv2 = zero(conv(dims, channels, channels))
        self.skip = conv(dims, in_channels, channels, 1) if project or in_channels != channels else nn.Identity()
        self.scale_shift = scale_shift

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        e = self.embedding(F.silu(embedding))
        h = modulated(self.norm2, h, *e.chunk(2, 1)) if self.scale_shift else self.norm2(h + over_space(e, h))
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

    def __init__(
        self, channels: int, head_channels: int, norm: Callable[[int], nn.GroupNorm] = group_norm, dims: int = 2
    ):
        super().__init__()
        self.heads = count_heads(channels, head_channels)
        self.norm = norm(channels)
        self.qkv = conv(dims, channels, 3 * channels, 1)
        self.proj = zero(conv(dims, channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, *size = x.shape
        qkv = self.qkv(self.norm(x)).view(b, 3, self.heads, c // self.heads, prod(size)).transpose(-1, -2)
        h = attend(*qkv.unbind(1)).transpose(-1, -2)
        return x + self.proj(h.reshape(b, c, *size))


class AttentionPool(nn.Module):
    """(B, C, ...) ↦ (B, C): proj(softmax(q kᵀ / sqrt(d)) v) with the mean over pixels as the only query.

    The query is among the keys, too, as in the pooling of CLIP (Radford et al. 2021, arXiv:2103.00020, sec. 2.4),
    which ADM's classifier uses; without its position embedding, so that any size will do.
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
        return self.proj(attend(q, k, v).reshape(b, c))


class MeanPool(nn.Module):
    """(B, C, ...) ↦ (B, C): the mean over pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(tuple(range(2, x.ndim)))


class Downsample(nn.Sequential):
    """Halves ``dims`` axes, upwards, with a strided 3×3 convolution (DDPM)."""

    def __init__(self, channels: int, dims: int = 2):
        super().__init__(conv(dims, channels, channels, stride=2))


class Upsample(nn.Sequential):
    """Doubles ``dims`` axes: nearest neighbour, then a 3×3 convolution (DDPM)."""

    def __init__(self, channels: int, dims: int = 2):
        super().__init__(nn.Upsample(scale_factor=2.0), conv(dims, channels, channels))
