"""Whether all that a task is made of takes samples of every size that training has."""

from typing import Protocol

import torch

from oboro.base.errors import UserError
from oboro.codec import Codec
from oboro.conditioner import Conditioner, Image
from oboro.data import DataModule
from oboro.denoiser import Denoiser
from oboro.hint.hint import Hint
from oboro.modality.modality import sizes
from oboro.task.noise_levels import takes


class Parts(Protocol):
    """What is looked at of a task."""

    codec: Codec
    conditioner: Conditioner
    denoiser: Denoiser


def check_training_sizes(parts: Parts, data: DataModule) -> None:
    """Raises ``UserError`` where the codec, the network or a hint does not take one of ``data.training_shapes``."""
    network = parts.denoiser.network
    for shape in data.training_shapes[1:]:
        size = sizes(shape[1:])
        if not fits(parts.codec, shape):
            raise refused(f"the codec does not divide {size}")
        if not takes(network, parts.codec.latent_shape(shape)):
            raise refused(f"{type(network).__name__} takes no samples of {size}")
        for single in parts.conditioner.singles:
            if isinstance(single, Image) and not shows(single.hint, (single.image_channels, *shape[1:])):
                raise refused(f"hint {type(single.hint).__name__} is of no pictures of {size}")


def refused(why: str) -> UserError:
    return UserError(
        f"{why}, one of the sizes of training; set data.buckets to a multiple of what they are divided by, or to 0, "
        "all pictures of one size."
    )


def fits(codec: Codec, shape: tuple[int, ...]) -> bool:
    try:
        codec.latent_shape(shape)
    except UserError:
        return False
    return True


def shows(hint: Hint, shape: tuple[int, ...]) -> bool:
    """Whether a picture (C, ...) of ``shape`` has that hint."""
    try:
        hint(torch.zeros(1, *shape), [torch.Generator().manual_seed(0)])
    except UserError:
        return False
    return True
