"""Metrics of generated images: features in, a number with its protocol out."""

from oboro.metrics.extractor import Extractor, Images, extract
from oboro.metrics.fashion import Fashion
from oboro.metrics.frechet import Frechet, frechet_distance, frechet_floor
from oboro.metrics.inception import Inception
from oboro.metrics.metric import Metric
from oboro.metrics.statistics import FeatureStatistics, reference_statistics
from oboro.metrics.unmeasured import Unmeasured

__all__ = [
    "Extractor",
    "Fashion",
    "FeatureStatistics",
    "Frechet",
    "Images",
    "Inception",
    "Metric",
    "Unmeasured",
    "extract",
    "frechet_distance",
    "frechet_floor",
    "reference_statistics",
]
