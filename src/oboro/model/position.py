"""Where the tokens of a sample are, and two ways to tell a transformer."""

from collections.abc import Sequence

import torch
from torch import Tensor


def grid_positions(size: Sequence[int], extent: float, device: torch.device | None = None) -> Tensor:
    """The place of each token of a grid of ``size``, such as (row, column), row by row: (N, len(size)), float32.

    (i + 1/2) extent / n - 1/2 for i = 0 … n - 1 along an axis of n tokens: 0, 1, … for n = ``extent``, and the same
    stretch of space in finer or coarser steps for others. The tokens that replace one at twice the resolution lie
    around it.
    """
    axes = ((torch.arange(n, dtype=torch.float32, device=device) + 0.5) * (extent / n) - 0.5 for n in size)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def sincos(positions: Tensor, dim: int) -> Tensor:
    """Positions (N, a) on a axes ↦ (N, dim): sines and cosines of the last axis first, ``dim / (2 a)`` of each.

    The angles are position * 10000^(-2 a k / dim) for k = 0 … dim / (2 a) - 1 (Vaswani et al. 2017, arXiv:1706.03762,
    sec. 3.5, for every axis as Peebles & Xie 2023, arXiv:2212.09748). ``dim`` is a multiple of 2 a.
    """
    angle = positions.flip(1)[:, :, None] * frequencies(dim // (2 * positions.shape[1]), 10_000.0, positions)
    return torch.cat([angle.sin(), angle.cos()], 2).flatten(1)


def frequencies(n: int, base: float, like: Tensor) -> Tensor:
    """base^(-k / n) for k = 0 … n - 1, of the type and on the device of ``like``."""
    return base ** -(torch.arange(n, dtype=like.dtype, device=like.device) / n)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotates channels (k, k + d/2) of x (..., N, d) as a plane by angle (N, d/2), in at least single precision."""
    first, second = x.to(angle.dtype).chunk(2, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1).to(x.dtype)


def rotary_angles(positions: Tensor, d: int) -> Tensor:
    """Positions (N, a) on a axes ↦ the angles (N, d/2) by which queries and keys of ``d`` channels are turned.

    Every axis turns its part of the planes, at 100^(-2 a k / d) radians per position, k = 0 … d / (2 a) - 1. A scalar
    product of a turned query with a turned key depends on the difference of their positions alone (Su et al. 2021,
    arXiv:2104.09864; the axial form and base 100 of Heo et al. 2024, arXiv:2403.13298). ``d`` is a multiple of 2 a.
    """
    return (positions[:, :, None] * frequencies(d // (2 * positions.shape[1]), 100.0, positions)).flatten(1)
