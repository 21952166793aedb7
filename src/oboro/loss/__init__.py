"""Losses: (denoiser, x, cond, generator) to one number per sample. They own p(t), the weight and the target.

The parts of ``Denoising`` are in ``time``, ``weighting``, ``penalty`` and ``coupling``; each is a config group.
"""

from oboro.loss import coupling, penalty, time, weighting
from oboro.loss.denoising import Denoising
from oboro.loss.hybrid import Hybrid

__all__ = ["Denoising", "Hybrid", "coupling", "penalty", "time", "weighting"]
