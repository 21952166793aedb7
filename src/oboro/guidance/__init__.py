"""Guidance: from a denoiser to a denoiser that is steered."""

from oboro.guidance.classifier_free import CFGPP, CFGZeroStar, ClassifierFree
from oboro.guidance.guidance import Guidance, Unguided

__all__ = ["CFGPP", "CFGZeroStar", "ClassifierFree", "Guidance", "Unguided"]
