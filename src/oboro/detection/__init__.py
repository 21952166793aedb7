"""How well scores and maps tell anomalous samples from normal ones: arrays in, numbers out."""

from oboro.detection.bootstrap import Interval, bootstrap, bootstrap_mean, difference
from oboro.detection.calibration import Calibration, Pool, Pooling
from oboro.detection.measure import Measure
from oboro.detection.ranking import (
    AUPRO,
    AUROC,
    AveragePrecision,
    PixelAUROC,
    PixelAveragePrecision,
    aupro,
    auroc,
    average_precision,
    pixel_auroc,
    pixel_average_precision,
)
from oboro.detection.threshold import F1, FalsePositiveRate, Recall, f1, false_positive_rate, recall, threshold

__all__ = [
    "AUPRO",
    "AUROC",
    "F1",
    "AveragePrecision",
    "Calibration",
    "FalsePositiveRate",
    "Interval",
    "Measure",
    "PixelAUROC",
    "PixelAveragePrecision",
    "Pool",
    "Pooling",
    "Recall",
    "aupro",
    "auroc",
    "average_precision",
    "bootstrap",
    "bootstrap_mean",
    "difference",
    "f1",
    "false_positive_rate",
    "pixel_auroc",
    "pixel_average_precision",
    "recall",
    "threshold",
]
