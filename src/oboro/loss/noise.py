"""What is added to data in training: normal numbers, or something smoother."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import ceil, pi

import torch
from torch import Tensor

from oboro.base.draws import rand, randn
from oboro.base.errors import UserError
from oboro.base.ranges import Count, Positive
from oboro.base.seeding import SampleNoise, generator

G2 = (3 - 3**0.5) / 6  # from the square lattice to that of equilateral triangles, in two dimensions
F2 = (3**0.5 - 1) / 2  # and back
REACH = 0.5  # square of how far a lattice point acts: the height of a triangle
# E[n²] of simplex noise whose gradients are of length 1 in any direction: 1/A ∫ (1/2 - r²)^8 r²/2 dr² over the disc,
# A = 1 - 2 G2 the area for each lattice point.
VARIANCE = pi / (1 - 2 * G2) * REACH**10 / 180


class Noise(ABC):
    """eps of mean 0 and variance 1 at every place.

    ``gaussian``: whether its numbers are independent and normal, which samplers that draw noise, and the prior of
    sampling, take for granted.
    """

    gaussian: bool = False

    @abstractmethod
    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Of ``shape`` (B, C, ...), float32 on the device of the generator, as ``oboro.base.draws`` draws."""

    @abstractmethod
    def of_samples(self, seed: int, ids: Sequence[int], like: Tensor) -> Tensor:
        """Of the shape, type and device of ``like`` (B, ...); row i is a function of (seed, ids[i])."""


class Gaussian(Noise):
    """Independent standard normal numbers."""

    gaussian = True

    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return randn(shape, generator)

    def of_samples(self, seed: int, ids: Sequence[int], like: Tensor) -> Tensor:
        return SampleNoise(seed, ids)(like)


class Simplex(Noise):
    """Simplex noise in ``octaves`` (Perlin 2001; of diffusion Wyatt et al. 2022, AnoDDPM, sec. 3.3): octave k has
    structures of ``period`` / 2^k pixels and ``persistence``^k of the amplitude of the first; the sum has variance 1.

    A model that removes it restores large structures, which Gaussian noise of the same variance leaves as they are.
    Each sample and channel has lattices of its own, shifted at random.
    """

    def __init__(self, octaves: Count = 6, persistence: Positive = 0.8, period: Positive = 64.0):
        self.octaves = octaves
        self.persistence = persistence
        self.period = period

    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        if len(shape) != 4:
            raise UserError(
                "simplex noise is made for pictures and these samples are none; choose loss/noise=gaussian."
            )
        batch, channels, *size = shape
        total: Tensor | float = 0.0
        for k in range(self.octaves):
            period = self.period / 2**k
            cells = ceil(2 * max(size) / period) + 3  # the skew stretches by less than 2
            drawn = rand((batch, channels, cells * cells + 2), generator)
            shift, turns = drawn[..., :2], drawn[..., 2:].unflatten(-1, (cells, cells))
            total = total + self.persistence**k * simplex(size, period, shift, turns)
        assert torch.is_tensor(total)
        power = sum(self.persistence ** (2 * k) for k in range(self.octaves))
        return total / (power * VARIANCE) ** 0.5

    def of_samples(self, seed: int, ids: Sequence[int], like: Tensor) -> Tensor:
        rows = [self((1, *like.shape[1:]), generator(seed, "simplex", i)) for i in ids]
        return torch.cat(rows).to(like)


def simplex(size: Sequence[int], period: float, shift: Tensor, turns: Tensor) -> Tensor:
    """Σ over the corners of the triangle around each place of (1/2 - |d|²)⁴ g · d, (B, C, H, W): d from the corner to
    the place, g the gradient of the corner, at ``turns`` (B, C, n, n) of a full turn; ``shift`` (B, C, 2) in cells."""
    height, width = size
    rows, columns = (torch.arange(n, device=turns.device) / period for n in (height, width))
    y = rows[:, None] + shift[..., 0, None, None]
    x = columns[None, :] + shift[..., 1, None, None]
    skew = (x + y) * F2
    i, j = (x + skew).floor(), (y + skew).floor()
    unskew = (i + j) * G2
    dx, dy = x - (i - unskew), y - (j - unskew)
    lower = (dx > dy).to(x)  # the triangle of the cell: its second corner is (1, 0) or (0, 1)
    total = torch.zeros_like(dx)
    for a, b in ((torch.zeros_like(lower),) * 2, (lower, 1 - lower), (torch.ones_like(lower),) * 2):
        ex, ey = dx - a + (a + b) * G2, dy - b + (a + b) * G2
        index = ((j + b).long() * turns.shape[-1] + (i + a).long()).flatten(2)
        angle = 2 * pi * turns.flatten(2).gather(2, index).view_as(ex)
        near = (REACH - ex.square() - ey.square()).clamp(min=0)
        total = total + near.pow(4) * (angle.cos() * ex + angle.sin() * ey)
    return total
