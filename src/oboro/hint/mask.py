"""The known pixels of a picture with a hole: inpainting."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oboro import measurement
from oboro.base.ranges import Count, PositiveShare, Share, Width
from oboro.condition import Image
from oboro.hint.hint import Hint
from oboro.hint.measured import operator_of
from oboro.measurement import Mask, MaskShape
from oboro.measurement.mask_shape import Side


class Masked(Hint):
    """Clean pixels where a mask says so, and the mask; drawn for each picture on its own.

    ``keep_known``: samples have the known pixels, to the last bit. Palette: arXiv:2111.05826, sec. 3.
    """

    random = True
    has_hole = True

    def __init__(self, channels: Width, shape: MaskShape, keep_known: bool):
        super().__init__(channels)
        self.shape = shape
        self.keeps_known = keep_known

    def picture(self, x: Tensor, generators: Sequence[torch.Generator]) -> Image:
        a = operator_of(self.shape, x.shape[1:], generators)
        assert isinstance(a, Mask)
        return Image(a(x), a.mask.to(x.device))


class MaskBox(Masked):
    """A hole of ``height`` × ``width`` pixels: ``oboro.measurement.MaskBox``."""

    def __init__(
        self,
        channels: Width,
        height: Count | None = None,
        width: Count | None = None,
        centred: bool = False,
        keep_known: bool = True,
    ):
        super().__init__(channels, measurement.MaskBox(height, width, centred), keep_known)


class MaskHalf(Masked):
    """A hole as large as half of the picture: ``oboro.measurement.MaskHalf``."""

    def __init__(self, channels: Width, side: Side | None = None, keep_known: bool = True):
        super().__init__(channels, measurement.MaskHalf(side), keep_known)


class MaskStroke(Masked):
    """Holes as of a brush: ``oboro.measurement.MaskStroke``."""

    def __init__(
        self,
        channels: Width,
        strokes: Count = 3,
        corners: Count = 5,
        width: PositiveShare = 0.12,
        keep_known: bool = True,
    ):
        super().__init__(channels, measurement.MaskStroke(strokes, corners, width), keep_known)


class MaskRandom(Masked):
    """Single pixels are hidden, ``share`` of all: ``oboro.measurement.MaskRandom``."""

    def __init__(self, channels: Width, share: Share = 0.7, keep_known: bool = True):
        super().__init__(channels, measurement.MaskRandom(share), keep_known)


class OneOf(MaskShape):
    """One of ``shapes``, each as likely as the others."""

    def __init__(self, shapes: Sequence[MaskShape]):
        self.shapes = shapes

    def __call__(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        chosen = int(torch.randint(len(self.shapes), (), generator=generator))
        return self.shapes[chosen](height, width, generator)


class MaskAny(Masked):
    """A box, a half, strokes, or a ``share`` of single pixels: for a model that fills holes of any kind."""

    def __init__(self, channels: Width, share: Share = 0.7, keep_known: bool = True):
        shapes = [
            measurement.MaskBox(),
            measurement.MaskHalf(),
            measurement.MaskStroke(),
            measurement.MaskRandom(share),
        ]
        super().__init__(channels, OneOf(shapes), keep_known)
