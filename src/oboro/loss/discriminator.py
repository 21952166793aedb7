"""Networks that tell what is made from data, trained together with what they judge."""

from collections.abc import Mapping
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from oboro.base.ranges import Axes, Classes, Multiples, Width
from oboro.condition import Condition, Signal, Signals
from oboro.denoiser import Denoiser
from oboro.model.dcgan import Size, Strided, sides
from oboro.model.layers import LabelEmbedding, conv, group_norm
from oboro.model.signals import label_index, reads


class Patch(nn.Module):
    """PatchGAN (Isola et al. 2017, arXiv:1611.07004, appendix 6.1.2): a logit for each patch, (B, 1, h, w) of images.

    ``layers`` strided 4×4 convolutions, of ``width`` channels and twice as many in each next one up to 8 ``width``,
    then one that is not strided, then the logit. GroupNorm in place of the paper's batch normalisation: a logit depends
    on its image alone, and so not on how many devices share a batch.
    """

    def __init__(self, in_channels: Width, width: Width = 64, layers: Annotated[int, Interval(ge=1, le=16)] = 3):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 4, stride=2, padding=1)
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        for i in range(layers):
            stride = 2 if i < layers - 1 else 1
            self.convs.append(nn.Conv2d(widths[i], widths[i + 1], 4, stride=stride, padding=1, bias=False))
            self.norms.append(group_norm(widths[i + 1]))
        self.logit = nn.Conv2d(widths[-1], 1, 4, padding=1)

    @property
    def least(self) -> int:
        """The side of the smallest image that leaves a patch."""
        return 3 * 2 ** len(self.convs)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(x), 0.2)
        for layer, norm in zip(self.convs, self.norms, strict=True):
            h = F.leaky_relu(norm(layer(h)), 0.2)
        return self.logit(h)


class DCGAN(nn.Module):
    """Pictures (B, in_channels, *size) ↦ logits (B,), a linear map of the features h of ``Strided``; with labels plus
    <e(y), h>, e an embedding that starts small: a projection discriminator (Miyato & Koyama 2018, arXiv:1802.05637).
    """

    def __init__(
        self,
        in_channels: Width,
        size: Size,
        width: Width = 64,
        channel_mult: Multiples = (1, 2, 4, 8),
        num_classes: Classes = 0,
    ):
        super().__init__()
        self.shape = (in_channels, *sides(size))
        self.trunk = Strided(in_channels, size, width, channel_mult)
        self.logit = nn.Linear(self.trunk.features, 1)
        self.label = LabelEmbedding(num_classes, self.trunk.features) if num_classes else None

    @property
    def reads(self) -> Mapping[str, type[Signal]]:
        return reads(self.label.num_classes if self.label is not None else 0)

    def forward(self, x: Tensor, signals: Signals) -> Tensor:
        h = self.trunk(x)
        logit = self.logit(h).squeeze(1)
        if self.label is not None:
            logit = logit + (self.label(label_index(signals, logit)) * h).sum(1)
        return logit.to(x.dtype)


class Head(nn.Module):
    """A logit (B,) of features (B, C, ...) of any size: two strided 3×3 convolutions, each with GroupNorm and SiLU, and
    the mean over places of a linear map to one number.

    The classification branch of DMD2 (arXiv:2405.14867, sec. 4.3), whose convolutions are 4×4 and made for one size.
    """

    def __init__(self, channels: Width, dims: Axes = 2):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [conv(dims, channels, channels, stride=2), group_norm(channels), nn.SiLU()]
        self.layers = nn.Sequential(*layers, conv(dims, channels, 1, 1))

    def forward(self, h: Tensor) -> Tensor:
        return self.layers(h).flatten(1).mean(1)


class NoisyDiscriminator(nn.Module):
    """(x_t, t, cond) ↦ a logit (B,): ``head`` on the bottleneck of the network of ``denoiser``."""

    def __init__(self, denoiser: Denoiser, head: Head):
        super().__init__()
        self.denoiser = denoiser
        self.head = head

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.head(self.denoiser.bottleneck(x_t, t, cond)).to(x_t.dtype)
