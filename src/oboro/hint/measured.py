"""What a linear measurement shows of a picture."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Len
from torch import Tensor

from oboro import measurement
from oboro.base.errors import UserError
from oboro.base.ranges import Positive, Several, Share, Width
from oboro.condition import Image
from oboro.hint.hint import Hint, whole
from oboro.measurement import MaskShape, Measurement
from oboro.measurement.grey import LUMA


def operator_of(
    kind: Measurement | MaskShape, shape: Sequence[int], generators: Sequence[torch.Generator]
) -> Measurement:
    """``kind.operator(shape, generators)``; its errors name the settings of the hint."""
    try:
        return kind.operator(tuple(shape), generators)
    except UserError as error:
        raise UserError(str(error).replace("measurement.", "hint.").replace("measurement=", "hint=")) from None


class Measured(Hint):
    """A x of a ``Measurement`` A as a picture of the size of x."""

    def __init__(self, channels: Width, measurement: Measurement):
        super().__init__(channels)
        self.measurement = measurement

    def picture(self, x: Tensor, generators: Sequence[torch.Generator]) -> Image:
        a = operator_of(self.measurement, x.shape[1:], generators)
        return whole(a.picture(a(x)))


class Blur(Measured):
    """The picture blurred by a Gaussian of ``std`` pixels: ``oboro.measurement.Blur``."""

    def __init__(
        self,
        channels: Width,
        std: Positive = 2.0,
        boundary: Literal["reflect", "circular"] = "reflect",
        cutoff: Share = 1e-3,
    ):
        super().__init__(channels, measurement.Blur(std, boundary, cutoff))


class Downsample(Measured):
    """A picture ``factor`` times smaller, each of its pixels shown as a block: ``oboro.measurement.Downsample``."""

    def __init__(self, channels: Width, factor: Several = 4, kind: Literal["mean", "bicubic"] = "mean"):
        super().__init__(channels, measurement.Downsample(factor, kind))


class Grey(Hint):
    """The lightness of a picture in colour, 1 channel: ``oboro.measurement.Grey``."""

    def __init__(self, channels: Literal[1] = 1, weights: Annotated[Sequence[float], Len(3, 3)] = LUMA):
        super().__init__(channels)
        self.measurement = measurement.Grey(weights)

    def __call__(self, x: Tensor, generators: Sequence[torch.Generator] = ()) -> Image:
        return self.picture(x, generators)

    def picture(self, x: Tensor, generators: Sequence[torch.Generator]) -> Image:
        return whole(operator_of(self.measurement, x.shape[1:], generators)(x))
