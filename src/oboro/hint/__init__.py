"""Hints: the picture that a network reads beside a noisy sample, made of the sample itself or brought by the data."""

from oboro.hint.edges import Edges
from oboro.hint.given import Given
from oboro.hint.hint import Hint
from oboro.hint.mask import MaskAny, MaskBox, MaskHalf, MaskRandom, MaskStroke
from oboro.hint.measured import Blur, Downsample, Grey

__all__ = [
    "Blur",
    "Downsample",
    "Edges",
    "Given",
    "Grey",
    "Hint",
    "MaskAny",
    "MaskBox",
    "MaskHalf",
    "MaskRandom",
    "MaskStroke",
]
