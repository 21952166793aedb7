"""Guidance: from a denoiser to a denoiser that is steered."""

from oboro.guidance.autoguidance import Autoguidance
from oboro.guidance.classifier import Classifier
from oboro.guidance.classifier_free import CFGPP, CFGZeroStar, ClassifierFree
from oboro.guidance.gradient import GradientGuided, linearized
from oboro.guidance.guidance import DenoiserWrapper, Guidance, Guided, Unguided
from oboro.guidance.per_condition import PerCondition

__all__ = [
    "CFGPP",
    "Autoguidance",
    "CFGZeroStar",
    "Classifier",
    "ClassifierFree",
    "DenoiserWrapper",
    "GradientGuided",
    "Guidance",
    "Guided",
    "PerCondition",
    "Unguided",
    "linearized",
]
