"""How networks read signals: what they declare, the class of each sample, a picture beside the noisy sample."""

import torch
from torch import Tensor

from oboro.condition import Image, Label, Signal, Signals, Text
from oboro.schedule import expand_as


def reads(num_classes: int = 0, text_dim: int = 0, image_channels: int = 0) -> dict[str, type[Signal]]:
    """The signals of a network with these settings, 0 for none: ``label``, ``text`` and ``image``."""
    kinds = {"label": (Label, num_classes), "text": (Text, text_dim), "image": (Image, image_channels)}
    return {name: kind for name, (kind, width) in kinds.items() if width}


def label_index(signals: Signals, c_noise: Tensor) -> Tensor:
    """The class (B,) of each sample, or -1 throughout where there is none; B is the length of ``c_noise``."""
    if "label" in signals:
        return signals["label"].index
    return torch.full(c_noise.shape, -1, dtype=torch.int64, device=c_noise.device)


def picture(image: Image, x: Tensor) -> Tensor:
    """(B, C + 1, ...) for ``x`` (B, ...): the picture, and a channel of 1 where it is known, else of 0."""
    known = expand_as(image.known.to(x), x).expand(len(x), 1, *x.shape[2:])
    return torch.cat([image.x.to(x), known], 1)
