"""Metrics of generated images: features in, numbers out."""

from oboro.metrics.accuracy import Accuracy
from oboro.metrics.bank import Bank, look_at
from oboro.metrics.frechet import Frechet, FrechetPerClass, frechet_distance
from oboro.metrics.metric import Metric, Value, measure, real_values
from oboro.metrics.published import Published
from oboro.metrics.reference import Extracted, Held, Reference
from oboro.metrics.statistics import FeatureStatistics

__all__ = [
    "Accuracy",
    "Bank",
    "Extracted",
    "FeatureStatistics",
    "Frechet",
    "FrechetPerClass",
    "Held",
    "Metric",
    "Published",
    "Reference",
    "Value",
    "frechet_distance",
    "look_at",
    "measure",
    "real_values",
]

from oboro.metrics.clip_score import CMMD
from oboro.metrics.temporary import (
    DensityCoverage,
    InceptionScore,
    Kernel,
    Memorization,
    PrecisionRecall,
    SlicedWasserstein,
)
