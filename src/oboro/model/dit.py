"""The diffusion transformer, DiT."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.ranges import Axes, Classes, Depth, Width, WidthOrNone
from oboro.condition import Signals
from oboro.model.attention import attend
from oboro.model.layers import (
    LabelEmbedding,
    NoiseEmbedding,
    channels_out,
    check_dims,
    check_size,
    run,
    zero,
)
from oboro.model.numbers import NumberEmbedding, NumberReader
from oboro.model.position import grid_positions, rotary_angles, rotate, sincos
from oboro.model.signals import ImageChannels, label_index, pictures, reads, width
from oboro.model.text import CrossAttention, TextEmbedding

NOISE_FEATURES = 256  # sines and cosines of the noise level, at all widths


def glorot(layer: nn.Linear) -> nn.Linear:
    """``layer`` with Glorot-uniform weights and no bias, as vision transformers start."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def to_patches(x: Tensor, patch: int) -> Tensor:
    """(B, C, n patch, …) ↦ (B, C patch^a, n, …) with a axes of space: a patch becomes channels."""
    b, c, *size = x.shape
    axes = len(size)
    split = x.reshape(b, c, *(m for n in size for m in (n // patch, patch)))
    inside, outside = range(3, 3 + 2 * axes, 2), range(2, 2 + 2 * axes, 2)
    return split.permute(0, 1, *inside, *outside).reshape(b, c * patch**axes, *(n // patch for n in size))


def from_patches(h: Tensor, patch: int) -> Tensor:
    """The inverse of ``to_patches``."""
    b, c, *grid = h.shape
    axes = len(grid)
    split = h.reshape(b, c // patch**axes, *[patch] * axes, *grid)
    pairs = (place for axis in range(axes) for place in (2 + axes + axis, 2 + axis))
    return split.permute(0, 1, *pairs).reshape(b, c // patch**axes, *(n * patch for n in grid))


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(h) (1 + scale) + shift for tokens h (B, N, D) and one shift and scale (B, D) for all of them.

    The norm is LayerNorm without weights of its own: adaptive layer norm, adaLN (arXiv:2212.09748, sec. 3.2).
    """
    return torch.addcmul(shift[:, None], F.layer_norm(h, h.shape[-1:], eps=1e-6), 1 + scale[:, None])


class Attention(nn.Module):
    """proj(softmax(q kᵀ / sqrt(d)) v) over all tokens (B, N, D); with ``angle`` (N, d/2), q and k are turned by it.

    With ``mask`` (B, N), bool, only tokens where it is true are attended to.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = glorot(nn.Linear(dim, 3 * dim))
        self.proj = glorot(nn.Linear(dim, dim))

    def forward(self, h: Tensor, angle: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if angle is not None:
            q, k = rotate(q, angle), rotate(k, angle)
        among = None if mask is None else mask[:, None, None]
        return self.proj(attend(q, k, v, among).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """h + gate attention(modulate(h)), then the same with an MLP: the adaLN-zero block (arXiv:2212.09748, fig. 3).

    A linear map of silu(embedding) gives both branches their shift, scale and gate; it starts at zero, and the block
    as the identity. With ``text_dim`` > 0 tokens attend to a text between the two, without modulation, as in PixArt-α
    (Chen et al. 2024, arXiv:2310.00426, sec. 2.3).
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: int, text_dim: int = 0):
        super().__init__()
        self.modulation = zero(nn.Linear(dim, 6 * dim))
        self.attention = Attention(dim, heads)
        wide, narrow = glorot(nn.Linear(dim, mlp_ratio * dim)), glorot(nn.Linear(mlp_ratio * dim, dim))
        self.mlp = nn.Sequential(wide, nn.GELU(approximate="tanh"), narrow)
        self.cross = CrossAttention(dim, text_dim, heads) if text_dim else None

    def forward(
        self,
        h: Tensor,
        embedding: Tensor,
        angle: Tensor | None = None,
        text: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(embedding)).chunk(6, 1)
        h = h + gate1[:, None] * self.attention(modulate(h, shift1, scale1), angle)
        if self.cross is not None:
            h = h + self.cross(h, text, mask)
        return h + gate2[:, None] * self.mlp(modulate(h, shift2, scale2))


class DiT(NumberReader):
    """F(x (B, C, H, W), c_noise (B,), signals) ↦ (B, C, H, W) for any H and W: a transformer over patches of pixels.

    Patches of ``patch`` × ``patch`` pixels become tokens of ``dim`` channels and pass ``depth`` adaLN-zero blocks
    (Peebles & Xie 2023, arXiv:2212.09748). A height or width that is no multiple of ``patch`` is filled up with zeros
    below and to the right, and cut off again at the end.

    With ``dims`` 1 for sequences (B, C, L), with 3 for (B, C, T, H, W): patches and places have so many axes.

    The place of a token is given by sines and cosines that are added, or, with ``rotary``, by rotations of queries and
    keys. Places are scaled so that an image of any size covers what ``reference_size`` pixels would: a network that was
    trained on 32×32 sees 64×64 as the same picture in finer steps.

    ``num_classes`` > 0 adds a class embedding for the signal ``label``, ``text_dim`` > 0 lets tokens attend to ``text``
    and ``image_channels`` > 0 reads ``image`` as further channels of the patches, as in ``UNet``; so are numbers.
    ``checkpointing`` recomputes each block in the backward pass: less memory for about a third more
    time. With ``learned_variance``, as in the paper, 2 C channels come out; other than in the paper, the noise level is
    c_noise instead of a step from 0 to 999. The last layer starts at zero.

    Raises ``UserError`` when ``heads`` does not divide ``dim`` or leaves heads of other than a multiple of 2 ``dims``
    channels.
    """

    min_size = 1

    def __init__(
        self,
        in_channels: Width,
        patch: Width = 2,
        dim: Width = 384,
        depth: Depth = 12,
        heads: Depth = 6,
        mlp_ratio: Annotated[int, Interval(ge=1, le=64)] = 4,
        num_classes: Classes = 0,
        rotary: bool = False,
        reference_size: Width = 32,
        checkpointing: bool = False,
        learned_variance: bool = False,
        text_dim: WidthOrNone = 0,
        pooled_dim: WidthOrNone = 0,
        dims: Axes = 2,
        image_channels: ImageChannels = 0,
        reads_end: bool = False,
        reads_guidance_scale: bool = False,
    ):
        super().__init__()
        check_dims(dims)
        if dim % (2 * dims * heads):
            raise UserError(
                f"{dim} channels do not split into {heads} heads of a multiple of {2 * dims} channels; "
                f"set model.heads to a divisor of model.dim / {2 * dims}."
            )
        self.dims = dims
        self.patch = patch
        self.reads = reads(num_classes, text_dim, image_channels, reads_end, reads_guidance_scale)
        self.image_channels = image_channels
        self.checkpointing = checkpointing
        self.extent = reference_size / patch
        self.head_channels = dim // heads
        self.rotary = rotary
        self.noise = NoiseEmbedding(NOISE_FEATURES, dim)
        for layer in (self.noise.mlp[0], self.noise.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.label = LabelEmbedding(num_classes, dim) if num_classes else None
        self.text = TextEmbedding(text_dim, pooled_dim, dim) if text_dim else None
        self.first = glorot(nn.Linear(in_channels * patch**dims, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, text_dim) for _ in range(depth))
        self.modulation = zero(nn.Linear(dim, 2 * dim))
        self.last = zero(nn.Linear(dim, channels_out(in_channels, learned_variance) * patch**dims))
        wide = width(image_channels) * patch**dims
        self.image = zero(nn.Linear(wide, dim, bias=False)) if wide else None
        self.end = NumberEmbedding(dim) if reads_end else None
        self.guidance_scale = NumberEmbedding(dim) if reads_guidance_scale else None

    def placed(self, h: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens h (B, N, dim) with their places added, or as they are and the angles (N, head channels / 2)."""
        positions = positions.to(torch.promote_types(h.dtype, torch.float32))
        if self.rotary:
            return h, rotary_angles(positions, self.head_channels)
        return h + sincos(positions, h.shape[2]).to(h.dtype), None

    def core(
        self,
        h: Tensor,
        positions: Tensor,
        embedding: Tensor,
        text: Tensor | None = None,
        mask: Tensor | None = None,
        residuals: Sequence[Tensor] = (),
    ) -> Tensor:
        """Tokens h (B, N, dim) at positions (N, dims) ↦ (B, N, dim), before the last layer; ``residuals[i]`` is added
        to what block i answers."""
        h, angle = self.placed(h, positions)
        for i, block in enumerate(self.blocks):
            h = run(block, h, embedding, angle, text, mask, recompute=self.checkpointing)
            h = h + residuals[i] if i < len(residuals) else h
        return modulate(h, *self.modulation(F.silu(embedding)).chunk(2, 1))

    def tokens(self, x: Tensor) -> Tensor:
        """(B, C, ...) ↦ (B, N, C patch^dims), filled up with zeros at the end of each axis."""
        x = F.pad(x, [margin for n in reversed(x.shape[2:]) for margin in (0, -n % self.patch)])
        return to_patches(x, self.patch).flatten(2).transpose(1, 2)

    def embed(self, c_noise: Tensor, signals: Signals) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The embedding of noise level and condition; tokens of a text and their mask, where the network reads one."""
        label, embedding = label_index(signals, c_noise), self.noise(c_noise)
        if self.label:
            embedding = embedding + self.label(label)
        if not self.text:
            return embedding, None, None
        text, mask, pooled = self.text(signals.get("text"), len(c_noise))
        return embedding + pooled, text, mask

    def enter(self, x: Tensor, signals: Signals) -> tuple[Tensor, Tensor]:
        """The tokens of a sample and of what is beside it, (B, N, dim), and their positions (N, dims)."""
        h = self.first(self.tokens(x))
        seen = pictures(signals, x, self.image_channels)
        if seen is not None:
            h = h + self.image(self.tokens(seen))
        return h, grid_positions(self.grid(x), self.extent, x.device)

    def grid(self, x: Tensor) -> list[int]:
        """How many patches there are along each axis."""
        return [-(-n // self.patch) for n in x.shape[2:]]

    def forward(self, x: Tensor, c_noise: Tensor, signals: Signals, residuals: Sequence[Tensor] = ()) -> Tensor:
        """``residuals[i]`` (B, N, dim) is added to what block i answers. Raises ``ValueError`` for a sample of other
        ``dims``."""
        check_size(x, self.min_size, self.dims)
        embedding, text, mask = self.arguments(c_noise, signals)
        h, positions = self.enter(x, signals)
        h = self.last(self.core(h, positions, embedding, text, mask, residuals))
        h = from_patches(h.transpose(1, 2).unflatten(2, self.grid(x)), self.patch)
        return h[(..., *(slice(n) for n in x.shape[2:]))]

    @property
    def bottleneck_channels(self) -> int:
        return self.first.out_features

    def bottleneck(self, x: Tensor, c_noise: Tensor, signals: Signals) -> Tensor:
        """The tokens after the first half of the blocks, upwards where their number is odd, in their places: (B,
        bottleneck_channels, ...). What a discriminator looks at."""
        embedding, *text = self.arguments(c_noise, signals)
        h, angle = self.placed(*self.enter(x, signals))
        for block in self.blocks[: (len(self.blocks) + 1) // 2]:
            h = run(block, h, embedding, angle, *text, recompute=self.checkpointing)
        return h.transpose(1, 2).unflatten(2, self.grid(x))

    def encoder(self) -> Self:
        """A copy of all up to the first half of the blocks, upwards where their number is odd."""
        half = deepcopy(self)
        half.blocks = half.blocks[: (len(half.blocks) + 1) // 2]
        del half.modulation, half.last
        return half
