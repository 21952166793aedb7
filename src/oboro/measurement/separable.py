"""Measurements that treat rows and columns one after the other."""

from abc import abstractmethod
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from oboro.base.errors import UserError
from oboro.base.precision import full_float32
from oboro.base.ranges import Positive, Several, Share
from oboro.measurement.measurement import Measurement
from oboro.measurement.spectral import Filter, Spectral


class SVD(NamedTuple):
    """u (m, k), s (k,), v (n, k) of a matrix (m, n), float64."""

    u: Tensor
    s: Tensor
    v: Tensor


class Separable(Spectral):
    """y = L x Rᵀ for each channel, (B, C, m_h, m_w): ``L`` for the rows, R for the columns, of one law for any length.

    Singular values below ``cutoff`` times the largest count as 0, in A too: what is hardly measured is not measured,
    and A A⁺ A = A holds. Decomposed in float64 and computed in the type of x, whatever autocast says.
    """

    cutoff: float

    @abstractmethod
    def decomposed(self, size: int) -> SVD:
        """Of the matrix for ``size`` pixels in a row."""

    def __call__(self, x: Tensor) -> Tensor:
        (rows, columns), s = self._bases(x, *x.shape[-2:])
        return product(rows.u, s * product(rows.v.T, x, columns.v), columns.u.T)

    def adjoint(self, y: Tensor) -> Tensor:
        (rows, columns), s = self._bases(y, *self.size_before(*y.shape[-2:]))
        return product(rows.v, s * product(rows.u.T, y, columns.u), columns.v.T)

    def filter(self, y: Tensor, f: Filter) -> Tensor:
        (rows, columns), s = self._bases(y, *self.size_before(*y.shape[-2:]))
        return product(rows.u, f(s[None, None]) * product(rows.u.T, y, columns.u), columns.u.T)

    def size_before(self, height: int, width: int) -> tuple[int, int]:
        """The size of the x that measurements of this size belong to."""
        return height, width

    def _bases(self, like: Tensor, height: int, width: int) -> tuple[tuple[SVD, SVD], Tensor]:
        rows, columns = (self.decomposed(size) for size in (height, width))
        s = rows.s[:, None] * columns.s
        s = torch.where(s > self.cutoff * s.max(), s, 0)
        rows, columns = (SVD(*(part.to(like) for part in basis)) for basis in (rows, columns))
        return (rows, columns), s.to(like)


def product(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """left x right for matrices x (B, C, H, W), in the type of x whatever autocast and TF32 say."""
    with torch.autocast(x.device.type, enabled=False), full_float32():
        return left @ x @ right


class Downsample(Separable):
    """A picture that is ``factor`` times smaller: the mean of each block of factor × factor pixels, or ``bicubic`` with
    antialiasing, as Pillow and the literature of super-resolution have it."""

    cutoff = 1e-6

    def __init__(self, factor: Several = 4, kind: Literal["mean", "bicubic"] = "mean"):
        self.factor = factor
        self.kind = kind

    def decomposed(self, size: int) -> SVD:
        self._check(size)
        return downsampling(size, self.factor, self.kind)

    def size_before(self, height: int, width: int) -> tuple[int, int]:
        return height * self.factor, width * self.factor

    def picture(self, y: Tensor) -> Tensor:
        """Every pixel of y as a block."""
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)

    def operator(self, shape: tuple[int, ...], generators: object) -> Measurement:
        for size in shape[1:]:
            self._check(size)
        return self

    def _check(self, size: int) -> None:
        if size % self.factor:
            fitting = [k for k in range(2, size + 1) if size % k == 0]
            raise UserError(
                f"measurement.factor={self.factor} does not divide {size} pixels; set it to "
                f"{', '.join(map(str, fitting[:6]))}."
            )


class Blur(Separable):
    """Convolution with a Gaussian of standard deviation ``std`` in pixels, cut off at 3 std.

    Beyond the border the picture is mirrored (``reflect``, its edge pixel twice) or begins anew (``circular``).
    Frequencies that are weakened to less than ``cutoff`` are lost; what is dropped of y is below ``cutoff`` |x|.
    """

    def __init__(self, std: Positive = 2.0, boundary: Literal["reflect", "circular"] = "reflect", cutoff: Share = 1e-3):
        self.std = std
        self.boundary = boundary
        self.cutoff = cutoff

    def decomposed(self, size: int) -> SVD:
        return blurring(size, self.std, self.boundary)

    def picture(self, y: Tensor) -> Tensor:
        """y itself, which is as large as x: A⁺ y shows the noise, enlarged."""
        return y


@lru_cache(64)
def downsampling(size: int, factor: int, kind: str) -> SVD:
    identity = torch.eye(size, dtype=torch.float64, device="cpu")
    if kind == "mean":
        return svd(identity.view(size // factor, factor, size).mean(1))
    # Each row of the identity is a picture of one row: what becomes of it is a column of the matrix.
    small = interpolate(identity[:, None, None], size=(1, size // factor), mode="bicubic", antialias=True)
    return svd(small[:, 0, 0].T)


@lru_cache(64)
def blurring(size: int, std: float, boundary: str) -> SVD:
    reach = max(1, round(3 * std))
    offsets = torch.arange(-reach, reach + 1, device="cpu")
    kernel = torch.exp(-0.5 * (offsets.double() / std) ** 2)
    place = torch.arange(size, device="cpu")[:, None] + offsets
    if boundary == "circular":
        place = place % size
    else:
        place = place % (2 * size)
        place = torch.where(place < size, place, 2 * size - 1 - place)
    return svd((one_hot(place, size).double() * (kernel / kernel.sum())[:, None]).sum(1))


def svd(matrix: Tensor) -> SVD:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return SVD(u, s, vh.T)
