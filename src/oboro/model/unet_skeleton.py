"""What all U-Nets share: how levels are put together, and the walk down, through the middle and up again."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Self

import torch
from torch import Tensor, nn

from oboro.condition import Signals
from oboro.model.layers import check_size, run
from oboro.model.numbers import NumberReader
from oboro.model.signals import ImageChannels, pictures

NOTHING: Mapping[int, Tensor] = {}
Arguments = tuple[Tensor | None, ...]  # what every stage reads beside the activation: an embedding, a text


class Stages(ABC):
    """Makes the stages of a U-Net: modules (h, *arguments) ↦ h.

    Level l has ``widths[l]`` channels at 1/2^l of the resolution, ``blocks`` stages on the way down and one more on
    the way up. The last level is not halved and the first one not doubled.
    """

    widths: Sequence[int]
    blocks: int

    @abstractmethod
    def down(self, c_in: int, level: int) -> nn.Module:
        """A stage of the way down, from ``c_in`` channels to those of ``level``."""

    @abstractmethod
    def half(self, c: int) -> nn.Module:
        """The stage that halves the resolution, upwards where it is odd, of ``c`` channels."""

    @abstractmethod
    def middle(self, c: int) -> nn.ModuleList: ...

    @abstractmethod
    def up(self, c_in: int, level: int, last: bool) -> nn.Module:
        """A stage of the way up, from ``c_in`` channels to those of ``level``; is it the last one of its level?"""

    @abstractmethod
    def double(self, c: int) -> nn.Module:
        """The stage that doubles the resolution, of ``c`` channels."""

    @property
    def levels(self) -> int:
        return len(self.widths)

    @property
    def min_size(self) -> int:
        """The least number of pixels along an axis."""
        return 2 ** (self.levels - 1)


def way_down(stages: Stages, c: int) -> tuple[nn.ModuleList, list[int]]:
    """The way down from ``c`` channels, stage by stage, and the channels of its skips: ``c`` and those after each.

    Every level but the first begins with the stage that halves.
    """
    made, skips = nn.ModuleList(), [c]
    for level, width in enumerate(stages.widths):
        if level > 0:
            made.append(stages.half(skips[-1]))
            skips.append(skips[-1])
        for _ in range(stages.blocks):
            made.append(stages.down(skips[-1], level))
            skips.append(width)
    return made, skips


def way_up(stages: Stages, skips: Sequence[int]) -> nn.ModuleList:
    """The way up from the channels ``skips[-1]`` of the middle: a list of stages for each skip, the last skip first."""
    made, skips, c = nn.ModuleList(), list(skips), skips[-1]
    for level in reversed(range(stages.levels)):
        for i in range(stages.blocks + 1):
            last = i == stages.blocks
            entry = nn.ModuleList([stages.up(c + skips.pop(), level, last)])
            c = stages.widths[level]
            if level > 0 and last:
                entry.append(stages.double(c))
            made.append(entry)
    return made


def flat(stages: nn.ModuleList) -> Iterator[nn.Module]:
    """All stages of a list of stages, or of lists of them."""
    for stage in stages:
        if isinstance(stage, nn.ModuleList):
            yield from stage
        else:
            yield stage


def cropped(h: Tensor, like: Tensor) -> Tensor:
    """h (B, C, ...) without what a doubling after a halving upwards has too many, compared to ``like``."""
    return h[(..., *(slice(n) for n in like.shape[2:]))]


class EncoderHalf(NumberReader):
    """The first half of a U-Net: embedding, first layer, way down and middle.

    A subclass has the modules ``first``, ``down`` and ``middle`` (``way_down`` makes ``down``) and says what stages
    read (``embed``). It may change how the sample enters (``enter``) and meet each level with what became of the
    sample (``halved``). One that reads pictures has ``image_channels`` and ``image``, which makes of them what is added
    to the first activation.
    """

    first: nn.Module
    down: nn.ModuleList
    middle: nn.ModuleList
    min_size: int
    blocks: int
    checkpointing: bool
    dims: int
    image_channels: ImageChannels = 0
    image: nn.Module | None
    skip_channels: Sequence[int]

    @property
    def level_ends(self) -> list[int]:
        """Which of the skips is the last of its level."""
        return list(range(self.blocks, len(self.skip_channels), self.blocks + 1))

    def features(self, x: Tensor, c_noise: Tensor, signals: Signals) -> list[Tensor]:
        """The last activation of each level, and that after the middle: (B, C_k, H_k, W_k)."""
        h, skips = self.encode(x, self.arguments(c_noise, signals), self.beside(x, signals))
        return [*(skips[i] for i in self.level_ends), h]

    def beside(self, x: Tensor, signals: Signals) -> Mapping[int, Tensor]:
        """What signals as large as the sample add to the skips (``added`` of ``encode``): pictures to the first."""
        seen = pictures(signals, x, self.image_channels)
        return NOTHING if seen is None else {0: self.image(seen)}

    def enter(self, x: Tensor) -> Tensor:
        """The first activation, at full resolution."""
        return self.first(x)

    def halved(self, h: Tensor, image: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """h after the stage that halves to ``level``, and ``image``: the sample, or what this made of it before."""
        return h, image

    def encode(
        self, x: Tensor, arguments: Arguments, added: Mapping[int, Tensor] = NOTHING
    ) -> tuple[Tensor, list[Tensor]]:
        """The activation after the middle, and the skips: the first activation and the one after each stage down.

        ``added[i]`` is added to skip i, and everything after it sees the sum: a hint at i = 0, features of an adapter
        after the stages of a level. Residuals that the way up alone is to see, as a ControlNet's, are added to the
        skips that come out.
        """
        h, image = self.enter(x), x
        skips = [h if 0 not in added else h + added[0]]
        for i, stage in enumerate(flat(self.down), start=1):
            h = run(stage, skips[-1], *arguments, recompute=self.checkpointing)
            if i % (self.blocks + 1) == 0:
                h, image = self.halved(h, image, i // (self.blocks + 1))
            skips.append(h if i not in added else h + added[i])
        h = skips[-1]
        for stage in self.middle:
            h = run(stage, h, *arguments, recompute=self.checkpointing)
        return h, skips


class UNetSkeleton(EncoderHalf):
    """A U-Net: F(x (B, C, ...), c_noise (B,), signals) ↦ (B, C, ...) = decode(*encode(x, arguments(…)), …).

    A subclass also has the modules ``up`` (``way_up`` makes it) and ``last``, and may change how the way up meets a
    skip (``join``) and how the answer leaves (``leave``). ``skip_channels`` are those of the skips, first to last; the
    middle has as many as the last.
    """

    up: nn.ModuleList
    last: nn.Module

    def join(self, h: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([h, skip], 1)

    def leave(self, h: Tensor) -> Tensor:
        return self.last(h)

    def decode(self, h: Tensor, skips: list[Tensor], arguments: Arguments) -> Tensor:
        """The prediction from what ``encode`` gives. Takes ``skips`` from the end and leaves the list empty."""
        for stages in self.up:
            skip = skips.pop()
            h = self.join(cropped(h, skip), skip)
            for stage in stages:
                h = run(stage, h, *arguments, recompute=self.checkpointing)
        return self.leave(h)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        signals: Signals,
        residuals: Sequence[Tensor] = (),
        features: Mapping[int, Tensor] = NOTHING,
    ) -> Tensor:
        """``residuals``, if any, are added to what the way up sees: one for each skip, first to last, and one for the
        middle (a ControlNet's, arXiv:2302.05543, sec. 3.2). ``features``[i] is added to skip i before the rest of the
        way down sees it (a T2I-Adapter's, arXiv:2302.08453, eq. 2). Raises ``ValueError`` for a size that cannot be
        halved."""
        check_size(x, self.min_size, self.dims)
        arguments = self.arguments(c_noise, signals)
        added = dict(self.beside(x, signals))
        for i, feature in features.items():
            added[i] = added[i] + feature if i in added else feature
        h, skips = self.encode(x, arguments, added)
        if residuals:
            *skips, h = (a + b for a, b in zip([*skips, h], residuals, strict=True))
        return self.decode(h, skips, arguments)

    @property
    def bottleneck_channels(self) -> int:
        return self.skip_channels[-1]

    def bottleneck(self, x: Tensor, c_noise: Tensor, signals: Signals) -> Tensor:
        """The activation after the middle, (B, bottleneck_channels, ...): what a discriminator looks at."""
        return self.encode(x, self.arguments(c_noise, signals), self.beside(x, signals))[0]

    def encoder(self) -> Self:
        """A copy of the first half: of it ``arguments``, ``beside`` and ``encode`` can be called."""
        half = deepcopy(self)
        del half.up, half.last
        return half
