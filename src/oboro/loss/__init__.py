"""Losses: (denoiser, x, cond, generator) to one number per sample. They own p(t), the weight and the target.

``CrossEntropy`` is that of a classifier: (classifier, x, label, generator). ``Reconstruction`` is that of an
autoencoder: (codec, x, step, generator), of the parts ``perceptual`` and ``discriminator``. ``Contrastive`` and
``SigLIP`` are those of CLIP, of the embeddings of images and texts.

``MeanFlow``, ``Shortcut`` and ``ContinuousConsistency`` teach a denoiser to jump, from data or from a teacher.

The parts of ``Denoising`` are in ``time``, ``weighting``, ``penalty`` and ``coupling``; each is a config group.
"""

from oboro.loss import coupling, discriminator, penalty, perceptual, time, weighting
from oboro.loss.continuous_consistency import ContinuousConsistency
from oboro.loss.contrastive import Contrastive, PairLoss, Pairs, SigLIP
from oboro.loss.cross_entropy import CrossEntropy
from oboro.loss.denoising import Denoising
from oboro.loss.hybrid import Hybrid
from oboro.loss.loss import Loss
from oboro.loss.mean_flow import MeanFlow
from oboro.loss.reconstruction import Reconstruction
from oboro.loss.shortcut import Shortcut

__all__ = [
    "ContinuousConsistency",
    "Contrastive",
    "CrossEntropy",
    "Denoising",
    "Hybrid",
    "Loss",
    "MeanFlow",
    "PairLoss",
    "Pairs",
    "Reconstruction",
    "Shortcut",
    "SigLIP",
    "coupling",
    "discriminator",
    "penalty",
    "perceptual",
    "time",
    "weighting",
]
