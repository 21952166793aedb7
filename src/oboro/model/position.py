"""Where the tokens of an image are, and two ways to tell a transformer."""

import torch
from torch import Tensor


def grid_positions(height: int, width: int, extent: float, device: torch.device | None = None) -> Tensor:
    """(row, column) of each of ``height * width`` tokens, row by row: (height * width, 2), float32.

    (i + 1/2) extent / n - 1/2 for i = 0 … n - 1 along an axis of n tokens: 0, 1, … for n = ``extent``, and the same
    stretch of space in finer or coarser steps for others. The 4 tokens that replace one at twice the resolution lie
    around it.
    """
    rows, columns = (
        (torch.arange(n, dtype=torch.float32, device=device) + 0.5) * (extent / n) - 0.5 for n in (height, width)
    )
    return torch.stack([rows[:, None].expand(-1, width), columns.expand(height, -1)], 2).flatten(0, 1)


def sincos(positions: Tensor, dim: int) -> Tensor:
    """(row, column) (N, 2) ↦ (N, dim): sines and cosines of the column, then of the row, ``dim / 4`` of each.

    The angles are position * 10000^(-4 k / dim) for k = 0 … dim / 4 - 1 (Vaswani et al. 2017, arXiv:1706.03762,
    sec. 3.5, for both axes as in Peebles & Xie 2023, arXiv:2212.09748). ``dim`` is a multiple of 4.
    """
    angle = positions.flip(1)[:, :, None] * frequencies(dim // 4, 10_000.0, positions)
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
    """(row, column) (N, 2) ↦ the angles (N, d/2) by which queries and keys of ``d`` channels are turned.

    Half of the planes turn with the row, half with the column, at 100^(-4 k / d) radians per position, k = 0 … d/4 - 1.
    A scalar product of a turned query with a turned key depends on the difference of their positions alone (Su et al.
    2021, arXiv:2104.09864; the axial form and base 100 of Heo et al. 2024, arXiv:2403.13298).
    ``d`` is a multiple of 4.
    """
    return (positions[:, :, None] * frequencies(d // 4, 100.0, positions)).flatten(1)
