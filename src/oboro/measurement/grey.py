"""Lightness without colour."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from oboro.base.errors import UserError
from oboro.measurement.measurement import Measurement
from oboro.measurement.spectral import Filter, Spectral

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow makes grey pictures


class Grey(Spectral):
    """y = sum_c w_c x_c, (B, 1, H, W), of three colours; ``weights`` that add up to 1 keep the range.

    A⁺ y = w y / |w|².
    """

    def __init__(self, weights: Annotated[Sequence[float], Len(3, 3)] = LUMA):
        if len(weights) != 3 or not any(weights):
            raise UserError(f"measurement.weights={list(weights)} are not three weights of colours; set three numbers.")
        self.weights = tuple(weights)

    def __call__(self, x: Tensor) -> Tensor:
        return (x * self._w(x)).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self._w(y)

    def filter(self, y: Tensor, f: Filter) -> Tensor:
        return f(self._w(y).square().sum(1, keepdim=True).sqrt()) * y

    def picture(self, y: Tensor) -> Tensor:
        """y as the lightness of all three: grey to the eye, which A⁺ y is not."""
        return y.expand(-1, 3, *y.shape[2:])

    def operator(self, shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Measurement:
        if shape[0] != 3:
            raise UserError(
                f"measurement=grey takes the colour of three channels and the samples have {shape[0]}; choose another "
                "measurement."
            )
        return self

    def _w(self, like: Tensor) -> Tensor:
        return torch.tensor(self.weights, dtype=like.dtype, device=like.device).view(1, 3, *[1] * (like.ndim - 2))
