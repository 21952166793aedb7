"""Measurements whose singular values are known."""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from oboro.measurement.measurement import Measurement
from oboro.schedule import expand_as

Filter = Callable[[Tensor], Tensor]


class Spectral(Measurement):
    """A = U S Vᵀ with the singular values S known, so that functions of A Aᵀ are exact and cheap."""

    @abstractmethod
    def filter(self, y: Tensor, f: Filter) -> Tensor:
        """U f(S) Uᵀ y.

        ``f`` is called with the singular values in a shape that broadcasts with (B, ...), and may give factors (B, ...)
        that differ between samples. What A does not measure has the singular value 0.
        """

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return self.adjoint(self.filter(y, lambda s: inverse(s**2)))

    def solve(self, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        def factor(s: Tensor) -> Tensor:
            return inverse(expand_as(a.to(s), s) * s**2 + expand_as(b.to(s), s))

        return self.filter(y, factor)


def inverse(values: Tensor) -> Tensor:
    """1 / values, and 0 for 0."""
    return torch.where(values == 0, 0, 1 / torch.where(values == 0, 1, values))
