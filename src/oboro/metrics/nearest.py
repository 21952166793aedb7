"""Euclidean distances between two sets of features, block by block, and the nearest neighbours they give."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from oboro.base.distributed import share

BLOCK = 1024  # rows and columns of a block of distances: 8 MB in float64, which stays in the processor's cache


def checked(*features: Tensor) -> tuple[Tensor, ...]:
    """The sets of features, detached and on the CPU.

    Raises ``ValueError`` unless each is (n, d) with n >= 1 and the same d, and free of NaN and infinity.
    """
    on_cpu = tuple(f.detach().cpu() for f in features)
    if any(f.ndim != 2 or len(f) < 1 for f in on_cpu) or len({f.shape[1] for f in on_cpu}) != 1:
        raise ValueError(f"features must be (n, d) with one d and n >= 1, got {[tuple(f.shape) for f in on_cpu]}")
    bad = sum((~f.isfinite()).any(1).sum().item() for f in on_cpu)
    if bad:
        raise ValueError(f"{bad} of {sum(map(len, on_cpu))} feature vectors hold NaN or infinity: no distances exist")
    return on_cpu


def paired_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_i| (n,), float64, from the differences themselves: symmetric, and exactly zero for equal rows."""
    return (x.double() - y.double()).square().sum(1).sqrt()


@dataclass(frozen=True, eq=False)
class Block:
    """Distances of some rows of x from some rows of y.

    Attributes:
        rows, cols: which rows of x and of y.
        x, y: these rows.
        squared: |x_i - y_j|² (rows, cols), float64, off by at most ``rounding``.
        rounding: bound of the rounding error of |a|² + |b|² - 2 a·b.
    """

    rows: slice
    cols: slice
    x: Tensor
    y: Tensor
    squared: Tensor
    rounding: float

    def compare(self, radii: Tensor) -> Tensor:
        """Sign of |x_i - y_j| - ``radii``, with ``radii`` of a shape that expands to (rows, cols).

        Exact also where a radius is the distance of an equal pair of points, as it is when one set holds copies of the
        other: pairs too close to call are computed from their differences.
        """
        gap = self.squared - radii.square()
        sign = gap.sign()
        doubtful = (gap.abs() <= self.rounding).nonzero()
        for i, j in (pairs.T for pairs in doubtful.split(BLOCK)):
            distances = paired_distances(self.x[i], self.y[j])
            sign[i, j] = (distances - radii.expand_as(gap)[i, j]).sign()
        return sign


def rows_of(x: Tensor) -> list[slice]:
    """The rows of ``x`` in blocks, for ``distributed.share``: each is compared with all of the other set at once."""
    return [slice(start, min(start + BLOCK, len(x))) for start in range(0, len(x), BLOCK)]


def centre_of(y: Tensor) -> Tensor:
    """The mean (d,), float64: distances do not see it, and without it less cancels."""
    return y.mean(0, dtype=torch.float64)


def blocks(rows: slice, x: Tensor, y: Tensor, centre: Tensor) -> Iterator[Block]:
    """|x_i - y_j|² of some ``rows`` of x and all of y, in blocks of ``BLOCK`` columns, on the device of these."""
    a = x[rows].double() - centre
    a2 = a.square().sum(1, keepdim=True)
    for other in range(0, len(y), BLOCK):
        cols = slice(other, min(other + BLOCK, len(y)))
        b = y[cols].double() - centre
        b2 = b.square().sum(1)
        squared = torch.addmm(b2, a, b.T, alpha=-2).add_(a2).clamp_(min=0)
        # Each of the three sums of d products is off by at most d eps of the sum of their sizes (Higham 2002, 3.1).
        rounding = 2 * (x.shape[1] + 4) * torch.finfo(torch.float64).eps * (a2.max() + b2.max()).item()
        yield Block(rows, cols, x[rows], y[cols], squared, rounding)


def nearest(x: Tensor, y: Tensor, k: int, exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest rows of ``y`` (m, d) to each row of ``x`` (n, d): distances and indices, both (n, k).

    Distances are Euclidean, float64, ascending, and exactly zero between equal rows; equal distances come in the order
    of their indices. With ``exclude_self`` y is x and row i is no neighbour of itself, but an equal row elsewhere is,
    at distance zero. Which of several rows is returned is open where squared distances differ by less than rounding.
    Ranks share the work (``distributed.share``).

    Raises ``ValueError`` where y has fewer than ``k`` rows to choose from.
    """
    x, y = checked(x, y)
    if exclude_self and len(x) != len(y):
        raise ValueError(f"exclude_self is for a set and itself, got {len(x)} and {len(y)} rows")
    if not 1 <= k <= len(y) - exclude_self:
        raise ValueError(f"{k} neighbours cannot be found among {len(y) - exclude_self} rows")
    parts = share(partial(_nearest, k=k, exclude_self=exclude_self), rows_of(x), x, y, centre_of(y))
    distances, indices = zip(*parts, strict=True)
    return torch.cat(distances), torch.cat(indices)


def _nearest(rows: slice, x: Tensor, y: Tensor, centre: Tensor, k: int, exclude_self: bool) -> tuple[Tensor, Tensor]:
    squared = torch.full((rows.stop - rows.start, k), torch.inf, dtype=torch.float64, device=x.device)
    indices = torch.zeros(squared.shape, dtype=torch.int64, device=x.device)
    for block in blocks(rows, x, y, centre):
        if exclude_self and block.rows == block.cols:
            block.squared.fill_diagonal_(torch.inf)
        nearest = block.squared.topk(min(k, block.squared.shape[1]), largest=False)
        candidates = torch.cat([squared, nearest.values], 1)
        names = torch.cat([indices, nearest.indices + block.cols.start], 1)
        best = candidates.topk(k, largest=False)
        squared, indices = best.values, names.gather(1, best.indices)
    return _ordered(x[rows], y, indices)


def _ordered(x: Tensor, y: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the neighbours ``indices`` (n, k), computed from differences, and both in ascending order."""
    indices = indices.sort(1).values
    distances = torch.stack([paired_distances(x, y[column]) for column in indices.T], 1)
    distances, order = distances.sort(dim=1, stable=True)
    return distances, indices.gather(1, order)


def radii(x: Tensor, k: int) -> Tensor:
    """Distance (n,), float64, of each row of ``x`` (n, d) to its ``k``-th nearest other row.

    Raises ``ValueError`` unless n > ``k``.
    """
    return nearest(x, x, k, exclude_self=True)[0][:, -1]
