"""The U-Net of DDPM, improved DDPM, DDPM++ and ADM."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oboro.condition import Signals
from oboro.model.layers import (
    Downsample,
    LabelEmbedding,
    NoiseEmbedding,
    ResidualBlock,
    SelfAttention,
    Upsample,
    channels_out,
    check_levels,
    check_size,
    group_norm,
    run,
    zero,
)
from oboro.model.signals import label_index, reads
from oboro.model.text import PixelCrossAttention, TextEmbedding


class Stage(nn.Module):
    """A residual block, with or without self-attention after it, and attention to a text after that."""

    def __init__(
        self, block: ResidualBlock, attention: SelfAttention | None = None, cross: PixelCrossAttention | None = None
    ):
        super().__init__()
        self.block = block
        self.attention = attention or nn.Identity()
        self.cross = cross

    def forward(self, h: Tensor, embedding: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        h = self.attention(self.block(h, embedding))
        return h if self.cross is None else self.cross(h, text, mask)


class Resample(nn.Module):
    """A resizing layer in the place of a stage; embedding and text do not reach it."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, h: Tensor, embedding: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self.layer(h)


@dataclass(frozen=True)
class Stages:
    """Makes the stages of a U-Net, or of its way down alone; the settings are those of ``UNet``."""

    channels: int
    channel_mult: Sequence[int]
    blocks: int
    attention_levels: Sequence[int]
    head_channels: int
    dropout: float
    scale_shift: bool
    residual_resample: bool
    text_dim: int = 0

    def __post_init__(self) -> None:
        check_levels(self.attention_levels, self.levels)

    @property
    def levels(self) -> int:
        return len(self.channel_mult)

    @property
    def embedding(self) -> int:
        """Width of the embedding of noise and label."""
        return 4 * self.channels

    def block(self, c_in: int, c_out: int, resample: nn.Module | None = None) -> ResidualBlock:
        settings = {"dropout": self.dropout, "scale_shift": self.scale_shift}
        return ResidualBlock(c_in, c_out, self.embedding, resample=resample, **settings)

    def attending(self, c_in: int, c: int) -> Stage:
        cross = PixelCrossAttention(c, self.text_dim, self.head_channels) if self.text_dim else None
        return Stage(self.block(c_in, c), SelfAttention(c, self.head_channels), cross)

    def at(self, c_in: int, level: int) -> Stage:
        """A stage of ``level``, with attention where the level has it."""
        c = self.channels * self.channel_mult[level]
        return self.attending(c_in, c) if level in self.attention_levels else Stage(self.block(c_in, c))

    def half(self, c: int) -> nn.Module:
        half = nn.AvgPool2d(2, ceil_mode=True)
        return Stage(self.block(c, c, half)) if self.residual_resample else Resample(Downsample(c))

    def down(self) -> tuple[nn.ModuleList, list[int]]:
        """The way down, and the channels before it and after each of its stages."""
        stages, c = nn.ModuleList(), [self.channels]
        for level in range(self.levels):
            for _ in range(self.blocks):
                stages.append(self.at(c[-1], level))
                c.append(self.channels * self.channel_mult[level])
            if level < self.levels - 1:
                stages.append(self.half(c[-1]))
                c.append(c[-1])
        return stages, c

    def middle(self, c: int) -> nn.ModuleList:
        return nn.ModuleList([self.attending(c, c), Stage(self.block(c, c))])


class UNet(nn.Module):
    """F(x (B, C, H, W), c_noise (B,), cond) ↦ (B, C, H, W), for any H and W of at least ``min_size``.

    Level l has ``channels * channel_mult[l]`` channels at 1/2^l of the resolution and ``blocks`` residual blocks on
    the way down, one more on the way up, where every activation of the way down is concatenated. An odd size is halved
    upwards, 7 to 4, and the row and column too many are cut off on the way up. Ho et al. 2020
    (arXiv:2006.11239, app. B); Dhariwal & Nichol 2021 (arXiv:2105.05233, sec. 3) add ``scale_shift``,
    ``residual_resample`` (up- and downsampling inside residual blocks) and heads of 64 channels.

    ``attention_levels`` are levels, not pixel sizes: level 1 of a 32×32 image is 16×16. ``num_classes`` > 0 adds a
    class embedding; ``cond`` may then hold ``label`` (B,), where -1, like a missing key, means no label.

    ``text_dim`` > 0 adds attention to a text after each self-attention (arXiv:2112.10752, sec. 3.3); ``cond`` may then
    hold ``text`` (B, L, text_dim), ``text_mask`` (B, L) and, with ``pooled_dim`` > 0, ``text_pooled`` (B, pooled_dim),
    which is added to the embedding of the noise level; a mask without any True, like missing keys, means no text.

    ``checkpointing`` recomputes each stage in the backward pass: less memory for about a third more time.
    With ``learned_variance`` 2 C channels come out, the second half for the variance of a reverse step (Nichol &
    Dhariwal 2021, arXiv:2102.09672). Convolutions that end a residual branch, and the last one, start at zero.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention_levels: Sequence[int] = (1,),
        head_channels: int = 64,
        dropout: float = 0.0,
        num_classes: int = 0,
        scale_shift: bool = True,
        residual_resample: bool = False,
        checkpointing: bool = False,
        learned_variance: bool = False,
        text_dim: int = 0,
        pooled_dim: int = 0,
    ):
        super().__init__()
        block = (head_channels, dropout, scale_shift, residual_resample)
        make = Stages(channels, channel_mult, blocks, attention_levels, *block, text_dim)
        self.min_size = 2 ** (make.levels - 1)
        self.num_classes = num_classes
        self.text_dim = text_dim
        self.reads = reads(num_classes, text_dim)
        self.checkpointing = checkpointing
        self.noise = NoiseEmbedding(channels, make.embedding)
        self.label = LabelEmbedding(num_classes, make.embedding) if num_classes else None
        self.text = TextEmbedding(text_dim, pooled_dim, make.embedding) if text_dim else None
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.down, skips = make.down()
        c = skips[-1]
        self.middle = make.middle(c)
        self.up = nn.ModuleList()  # one list of stages for every skip connection
        for level in reversed(range(make.levels)):
            for i in range(blocks + 1):
                stages = nn.ModuleList([make.at(c + skips.pop(), level)])
                c = channels * channel_mult[level]
                if level > 0 and i == blocks:
                    double = nn.Upsample(scale_factor=2.0)
                    stages.append(Stage(make.block(c, c, double)) if residual_resample else Resample(Upsample(c)))
                self.up.append(stages)
        last = nn.Conv2d(c, channels_out(in_channels, learned_variance), 3, padding=1)
        self.last = nn.Sequential(group_norm(c), nn.SiLU(), zero(last))

    def _told(self, c_noise: Tensor, signals: Signals) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The embedding of noise level and condition; tokens of a text and their mask, where the network reads one."""
        label, embedding = label_index(signals, c_noise), self.noise(c_noise)
        if self.label:
            embedding = embedding + self.label(label)
        if not self.text:
            return embedding, None, None
        text, mask, pooled = self.text(signals.get("text"), len(c_noise))
        return embedding + pooled, text, mask

    def forward(self, x: Tensor, c_noise: Tensor, signals: Signals) -> Tensor:
        """Raises ``ValueError`` for an H×W it cannot halve."""
        check_size(x, self.min_size)
        told = self._told(c_noise, signals)
        h = self.first(x)
        skips = [h]
        for stage in self.down:
            h = run(stage, h, *told, recompute=self.checkpointing)
            skips.append(h)
        for stage in self.middle:
            h = run(stage, h, *told, recompute=self.checkpointing)
        for stages in self.up:
            skip = skips.pop()
            h = torch.cat([h[..., : skip.shape[-2], : skip.shape[-1]], skip], 1)
            for stage in stages:
                h = run(stage, h, *told, recompute=self.checkpointing)
        return self.last(h)
