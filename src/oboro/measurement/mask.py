"""Some of the pixels."""

from collections.abc import Callable, Mapping

from torch import Tensor

from oboro.measurement.spectral import Filter, Spectral


class Mask(Spectral):
    """y = m x with ``mask`` m (B, 1, H, W) or (1, 1, H, W), bool: True where x is known. y is of the shape of x."""

    def __init__(self, mask: Tensor):
        self.mask = mask

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        return self(y)

    def measured(self, y: Tensor) -> Tensor:
        return self(y)

    def filter(self, y: Tensor, f: Filter) -> Tensor:
        return f(self.mask.to(y)) * y

    @property
    def known(self) -> Tensor:
        return self.mask

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {"mask": self.mask}

    def map(self, f: Callable[[Tensor], Tensor]) -> "Mask":
        return Mask(f(self.mask))
