"""What a linear measurement is, and what conjugate gradients make of an operator and its adjoint alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from oboro.schedule import expand_as

Linear = Callable[[Tensor], Tensor]
ITERATIONS = 200
TOLERANCE = 1e-6  # of |residual|, relative, in float32; its square root of eps scales it for other types


class Measurement(ABC):
    """y = A x of samples x (B, C, H, W) in the range of the model, linear, each sample on its own.

    A kind of one's own gives A and its adjoint; A⁺ and ``solve`` are conjugate gradients then. Where A differs between
    samples (a mask for each), its ``tensors`` are (B, ...) and follow the samples through ``map``.
    """

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """y = A x, (B, ...)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y, of the shape of x."""

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺ y, of the shape of x: the smallest of the x whose A x is nearest to ``y``."""
        return conjugate_gradients(lambda x: self.adjoint(self(x)), self.adjoint(y))

    def solve(self, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """(a A Aᵀ + b I)⁻¹ y for ``a`` > 0 and ``b`` ≥ 0, both (B,); the pseudo-inverse where b = 0."""
        a, b = expand_as(a.to(y), y), expand_as(b.to(y), y)
        if not b.all():
            y = torch.where(b > 0, y, self(self.pseudo_inverse(y)))
        return conjugate_gradients(lambda z: a * self(self.adjoint(z)) + b * z, y)

    def measured(self, y: Tensor) -> Tensor:
        """``y`` where something is measured and 0 elsewhere: where y can have noise."""
        return y

    def picture(self, y: Tensor) -> Tensor:
        """A⁺ y, what ``y`` shows of x, of the shape of x."""
        return self.pseudo_inverse(y)

    def operator(self, shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> "Measurement":
        """A of len(generators) samples of ``shape`` (C, H, W), what is random of it drawn from the generator of each.

        Raises ``UserError`` for a shape that it cannot measure.
        """
        return self

    def picture_size(self, height: int, width: int) -> tuple[int, int]:
        """The size of the pictures that samples of ``height`` × ``width`` are made after."""
        return height, width

    def placed(self, pictures: Tensor, height: int, width: int) -> Tensor:
        """Pictures (B, C, ...) of ``picture_size`` where they are to be in samples of ``height`` × ``width``."""
        return pictures

    @property
    def known(self) -> Tensor | None:
        """Where y gives numbers of x themselves, bool, of a shape that broadcasts with x; None where nowhere."""
        return None

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What differs between samples, (B, ...)."""
        return {}

    def map(self, f: Linear) -> Self:
        """The same with f(tensor) in the place of each of ``tensors``."""
        return self


def conjugate_gradients(matrix: Linear, b: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """x with matrix(x) = b, (B, ...), for a symmetric positive semi-definite matrix a sample and ``b`` in its range.

    Hestenes & Stiefel 1952. Begun at 0, so that x has no part in the null space. Every sample has steps of its own and
    stops on its own, so none depends on another.
    """
    x, r = torch.zeros_like(b), b
    p, square = r, _square(r)
    enough = (TOLERANCE * (torch.finfo(b.dtype).eps / torch.finfo(torch.float32).eps) ** 0.5) ** 2 * square
    for _ in range(iterations):
        active = square > enough
        if not active.any():
            break
        q = matrix(p)
        curvature = (p * q).flatten(1).sum(1)
        active = active & (curvature > 0)
        step = torch.where(active, square / torch.where(active, curvature, 1), 0)
        x, r = x + expand_as(step, x) * p, r - expand_as(step, x) * q
        before, square = square, torch.where(active, _square(r), 0)
        p = r + expand_as(square / torch.where(active, before, 1), r) * p
    return x


def _square(r: Tensor) -> Tensor:
    return r.flatten(1).square().sum(1)
