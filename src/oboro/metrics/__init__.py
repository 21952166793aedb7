"""Metrics of generated images: features in, numbers out."""

from oboro.metrics.accuracy import Accuracy
from oboro.metrics.bank import Bank, look_at
from oboro.metrics.clip_score import CMMD, CLIPScore
from oboro.metrics.diversity import Diversity
from oboro.metrics.edge_f1 import EdgeF1
from oboro.metrics.frechet import Frechet, FrechetPerClass, frechet_distance
from oboro.metrics.inception_score import InceptionScore
from oboro.metrics.kernel import Kernel
from oboro.metrics.likeness import PSNR, SSIM, Consistency, KnownKept
from oboro.metrics.manifold import DensityCoverage, PrecisionRecall
from oboro.metrics.memorization import Memorization
from oboro.metrics.metric import Metric, Value
from oboro.metrics.paired import Given, Groups, Observation, Paired
from oboro.metrics.paired_view import PairedView
from oboro.metrics.perceptual import LPIPS, PerceptualFashion
from oboro.metrics.published import Published
from oboro.metrics.real_floor import real_floor
from oboro.metrics.reference import Extracted, Held, Reference
from oboro.metrics.sliced_wasserstein import SlicedWasserstein
from oboro.metrics.statistics import FeatureStatistics
from oboro.metrics.view import measure

__all__ = [
    "CMMD",
    "LPIPS",
    "PSNR",
    "SSIM",
    "Accuracy",
    "Bank",
    "CLIPScore",
    "Consistency",
    "DensityCoverage",
    "Diversity",
    "EdgeF1",
    "Extracted",
    "FeatureStatistics",
    "Frechet",
    "FrechetPerClass",
    "Given",
    "Groups",
    "Held",
    "InceptionScore",
    "Kernel",
    "KnownKept",
    "Memorization",
    "Metric",
    "Observation",
    "Paired",
    "PairedView",
    "PerceptualFashion",
    "PrecisionRecall",
    "Published",
    "Reference",
    "SlicedWasserstein",
    "Value",
    "frechet_distance",
    "look_at",
    "measure",
    "real_floor",
]
