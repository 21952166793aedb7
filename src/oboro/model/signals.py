"""How networks read signals: what they declare, the class of each sample, pictures beside the noisy sample."""

from collections.abc import Mapping

import torch
from torch import Tensor

from oboro.base.ranges import Width, WidthOrNone
from oboro.condition import End, GuidanceScale, Image, Label, Signal, Signals, Text
from oboro.schedule import expand_as

# Of a picture that a network reads, the signal ``image``, or of several by the names of their signals; 0 for none.
ImageChannels = WidthOrNone | Mapping[str, Width]


def by_name(image_channels: ImageChannels) -> dict[str, int]:
    """The channels of the pictures that a network reads, by the names of their signals."""
    several = image_channels if isinstance(image_channels, Mapping) else {"image": image_channels}
    return {name: channels for name, channels in several.items() if channels}


def reads(
    num_classes: int = 0,
    text_dim: int = 0,
    image_channels: ImageChannels = 0,
    end: bool = False,
    guidance_scale: bool = False,
) -> dict[str, type[Signal]]:
    """The signals of a network with these settings, 0 for none: ``label``, ``text``, ``end``, ``guidance_scale`` and
    pictures."""
    kinds = {
        "label": (Label, num_classes),
        "text": (Text, text_dim),
        "end": (End, end),
        "guidance_scale": (GuidanceScale, guidance_scale),
    }
    read: dict[str, type[Signal]] = {name: kind for name, (kind, width) in kinds.items() if width}
    return read | dict.fromkeys(by_name(image_channels), Image)


def label_index(signals: Signals, c_noise: Tensor) -> Tensor:
    """The class (B,) of each sample, or -1 throughout where there is none; B is the length of ``c_noise``."""
    if "label" in signals:
        return signals["label"].index
    return torch.full(c_noise.shape, -1, dtype=torch.int64, device=c_noise.device)


def picture(image: Image, x: Tensor) -> Tensor:
    """(B, C + 1, ...) for ``x`` (B, ...): the picture, and a channel of 1 where it is known, else of 0."""
    known = image.known.to(x)
    known = known if image.has_hole else expand_as(known, x).expand(len(x), 1, *x.shape[2:])
    return torch.cat([image.x.to(x), known], 1)


def width(image_channels: ImageChannels) -> int:
    """How many channels ``pictures`` has; 0 for no picture."""
    return sum(channels + 1 for channels in by_name(image_channels).values())


def pictures(signals: Signals, x: Tensor, image_channels: ImageChannels) -> Tensor | None:
    """``picture`` of every one that a network reads, along the channels, zeros in the place of missing ones; None where
    all are missing."""
    channels = by_name(image_channels)
    if not any(name in signals for name in channels):
        return None
    parts = [
        picture(signals[name], x) if name in signals else x.new_zeros(len(x), c + 1, *x.shape[2:])
        for name, c in channels.items()
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
