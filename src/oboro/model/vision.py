"""Towers that make one vector of an image: the image side of CLIP."""

import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.ranges import Depth, Width, Widths
from oboro.model.dit import glorot
from oboro.model.layers import group_norm
from oboro.model.position import grid_positions, sincos
from oboro.model.transformer import PreNormBlock


class VisionTransformer(nn.Module):
    """x (B, C, H, W) ↦ (B, embedding): a pre-norm transformer over patches, the mean of its tokens, a linear map.

    As in Beyer et al. 2022 (arXiv:2205.01580): sines and cosines tell the places, and there is no class token.
    H and W are multiples of ``patch``. Raises ``UserError`` unless ``dim`` is a multiple of 4 and of ``heads``.
    """

    def __init__(self, in_channels: Width, embedding: Width, patch: Width, dim: Width, depth: Depth, heads: Depth):
        super().__init__()
        if dim % 4 or dim % heads:
            raise UserError(
                f"{dim} channels do not split into {heads} heads or 4 parts of a position; set model.image.dim to a "
                "multiple of both."
            )
        self.multiple = patch
        self.first = glorot(nn.Linear(in_channels * patch**2, dim))
        self.blocks = nn.ModuleList(PreNormBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, embedding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (side // self.multiple for side in x.shape[-2:])
        h = self.first(F.pixel_unshuffle(x, self.multiple).flatten(2).transpose(1, 2))
        h = h + sincos(grid_positions((rows, columns), max(rows, columns), x.device), h.shape[2]).to(h)
        for block in self.blocks:
            h = block(h)
        return self.proj(self.norm(h).mean(1))


class ConvTower(nn.Module):
    """x (B, C, H, W) ↦ (B, embedding): strided convolutions with a residual block each, the mean over pixels, a map.

    One stage for each of ``channels`` halves H and W. H and W are multiples of 2^(stages - 1).
    """

    def __init__(self, in_channels: Width, embedding: Width, channels: Widths):
        super().__init__()
        self.multiple = 2 ** (len(channels) - 1)
        before = [in_channels, *channels[:-1]]
        self.stages = nn.ModuleList(ConvStage(a, b) for a, b in zip(before, channels, strict=True))
        self.norm = nn.LayerNorm(channels[-1])
        self.proj = nn.Linear(channels[-1], embedding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.proj(self.norm(x.mean((2, 3))))


class ConvStage(nn.Module):
    """h = conv(x) of stride 2, then h + conv(silu(norm(conv(silu(norm(h))))))."""

    def __init__(self, before: int, channels: int):
        super().__init__()
        self.down = nn.Conv2d(before, channels, 3, stride=2, padding=1)
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.down(x)
        return h + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(h))))))
