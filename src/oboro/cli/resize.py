"""Samples of another size than those of training."""

from collections.abc import Sequence

from oboro.base.errors import UserError
from oboro.modality import Image
from oboro.modality.modality import sizes
from oboro.task import Generation
from oboro.task.noise_levels import takes


def resize(task: Generation, size: Sequence[int]) -> None:
    """Samples of ``size`` (height, width) from here on. Raises ``UserError`` where the network does not take them."""
    if not isinstance(task.modality, Image):
        noun = "samples" if task.modality is None else task.modality.noun
        raise UserError(f"size is of images and the model makes {noun}; leave size out.")
    trained, modality = task.modality, Image(task.modality.shape[0], *size)
    network, latent = task.denoiser.network, task.codec.latent_shape(modality.shape)
    if not takes(network, latent):
        raise UserError(
            f"{type(network).__name__} takes no samples of size={list(size)}; leave size out, or set multiples of the "
            f"size of training, {sizes(trained.shape[1:])}."
        )
    task.modality = modality
