"""Metrics of generated images: features in, a number with its protocol out."""

from oboro.metrics.extractor import Extractor
from oboro.metrics.fashion import Fashion

__all__ = ["Extractor", "Fashion"]
