"""Losses: (denoiser, x, cond, generator) to one number per sample. They own p(t), the weight and the target.

``CrossEntropy`` is that of a classifier: (classifier, x, label, generator). ``Reconstruction`` is that of an
autoencoder: (codec, x, step, generator), of the parts ``perceptual`` and ``discriminator``. ``Contrastive`` and
``SigLIP`` are those of CLIP, of the embeddings of images and texts.

``Consistency`` teaches a denoiser to jump to the end of the flow, from data or from a teacher, and
``TruncatedConsistency`` goes on from there; ``ContinuousConsistency`` is their limit. ``MeanFlow`` and ``Shortcut``
teach jumps to any end. ``Progressive`` halves the steps of a teacher, ``Reflow`` straightens its paths.
``DMD2``, ``SiD`` and ``ADD`` are those of ``task=distillation``, of a student and its opponents. ``GAN`` is that of
``task=gan`` and ``Variational`` that of a VAE: of generators that make data of noise in one step.

The parts of ``Denoising`` are in ``time``, ``weighting``, ``penalty`` and ``coupling``; each is a config group, and so
is ``curriculum``, of ``Consistency``.
"""

from oboro.loss import coupling, curriculum, discriminator, features, penalty, perceptual, time, weighting
from oboro.loss.adversarial_diffusion import ADD
from oboro.loss.consistency import Consistency
from oboro.loss.continuous_consistency import ContinuousConsistency
from oboro.loss.contrastive import Contrastive, PairLoss, Pairs, SigLIP
from oboro.loss.cross_entropy import CrossEntropy
from oboro.loss.denoising import Denoising
from oboro.loss.distilling import Distilling
from oboro.loss.distribution_matching import DMD2, SiD
from oboro.loss.game import Game
from oboro.loss.gan import GAN
from oboro.loss.hybrid import Hybrid
from oboro.loss.loss import Loss
from oboro.loss.mean_flow import MeanFlow
from oboro.loss.progressive import Progressive
from oboro.loss.reconstruction import Reconstruction
from oboro.loss.reflow import Reflow
from oboro.loss.shortcut import Shortcut
from oboro.loss.truncated import TruncatedConsistency
from oboro.loss.variational import Variational

__all__ = [
    "ADD",
    "DMD2",
    "GAN",
    "Consistency",
    "ContinuousConsistency",
    "Contrastive",
    "CrossEntropy",
    "Denoising",
    "Distilling",
    "Game",
    "Hybrid",
    "Loss",
    "MeanFlow",
    "PairLoss",
    "Pairs",
    "Progressive",
    "Reconstruction",
    "Reflow",
    "Shortcut",
    "SiD",
    "SigLIP",
    "TruncatedConsistency",
    "Variational",
    "coupling",
    "curriculum",
    "discriminator",
    "features",
    "penalty",
    "perceptual",
    "time",
    "weighting",
]
