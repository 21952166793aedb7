"""How far a reconstruction is from a sample, place by place. One class for each option in conf/distance."""

from oboro.distance.distance import Distance
from oboro.distance.perceptual import LPIPS, PerceptualFashion
from oboro.distance.pixel import Pixel

__all__ = ["LPIPS", "Distance", "PerceptualFashion", "Pixel"]
