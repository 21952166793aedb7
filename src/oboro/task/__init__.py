"""Tasks: LightningModules. The mathematics is importable and testable without them."""

from oboro.task.autoencoder import Autoencoder
from oboro.task.classification import Classification
from oboro.task.clip import CLIP
from oboro.task.denoising_autoencoder import DenoisingAutoencoder
from oboro.task.diffusion import Diffusion
from oboro.task.distillation import Distillation
from oboro.task.gan import GAN
from oboro.task.generation import Generation
from oboro.task.learner import Learner
from oboro.task.noise_levels import NoiseLevels
from oboro.task.task import Task

__all__ = [
    "CLIP",
    "GAN",
    "Autoencoder",
    "Classification",
    "DenoisingAutoencoder",
    "Diffusion",
    "Distillation",
    "Generation",
    "Learner",
    "NoiseLevels",
    "Task",
]
