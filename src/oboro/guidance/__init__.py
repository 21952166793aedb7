"""Guidance: from a denoiser to a denoiser that is steered."""

from oboro.guidance.autoguidance import Autoguidance
from oboro.guidance.classifier import Classifier
from oboro.guidance.classifier_free import CFGPP, CFGZeroStar, ClassifierFree
from oboro.guidance.ddad import DDAD
from oboro.guidance.ddnm import DDNM
from oboro.guidance.dps import DPS
from oboro.guidance.embedded import Embedded
from oboro.guidance.gradient import GradientGuided, linearized
from oboro.guidance.guidance import DenoiserWrapper, Guidance, Guided, Unguided
from oboro.guidance.measuring import Measuring
from oboro.guidance.mmps import MMPS
from oboro.guidance.per_condition import PerCondition
from oboro.guidance.pigdm import PiGDM

__all__ = [
    "CFGPP",
    "DDAD",
    "DDNM",
    "DPS",
    "MMPS",
    "Autoguidance",
    "CFGZeroStar",
    "Classifier",
    "ClassifierFree",
    "DenoiserWrapper",
    "Embedded",
    "GradientGuided",
    "Guidance",
    "Guided",
    "Measuring",
    "PerCondition",
    "PiGDM",
    "Unguided",
    "linearized",
]
