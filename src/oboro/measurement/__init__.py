"""Linear measurements y = A x of samples: what inverse problems are given, and what hints show."""

from oboro.measurement.grey import Grey
from oboro.measurement.mask import Mask
from oboro.measurement.mask_shape import MaskBox, MaskFile, MaskHalf, MaskOutside, MaskRandom, MaskShape, MaskStroke
from oboro.measurement.measured import NAME, Measured, measure, measured
from oboro.measurement.measurement import Measurement, conjugate_gradients
from oboro.measurement.separable import Blur, Downsample
from oboro.measurement.spectral import Spectral

__all__ = [
    "NAME",
    "Blur",
    "Downsample",
    "Grey",
    "Mask",
    "MaskBox",
    "MaskFile",
    "MaskHalf",
    "MaskOutside",
    "MaskRandom",
    "MaskShape",
    "MaskStroke",
    "Measured",
    "Measurement",
    "Spectral",
    "conjugate_gradients",
    "measure",
    "measured",
]
