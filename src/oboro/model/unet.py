"""The U-Net of DDPM, improved DDPM, DDPM++ and ADM."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from oboro.base.ranges import Axes, BelowOne, Classes, Depth, Levels, Multiples, Width, WidthOrNone
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
    conv,
    group_norm,
    mean_of_halves,
    zero,
)
from oboro.model.numbers import NumberEmbedding
from oboro.model.signals import ImageChannels, label_index, reads, width
from oboro.model.text import PixelCrossAttention, TextEmbedding
from oboro.model.unet_skeleton import Stages, UNetSkeleton, way_down, way_up


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
class UNetStages(Stages):
    """Makes the stages of a ``UNet``, or of its way down alone; the settings are those of ``UNet``."""

    channels: int
    channel_mult: Sequence[int]
    blocks: int
    attention_levels: Sequence[int]
    head_channels: int
    dropout: float
    scale_shift: bool
    residual_resample: bool
    text_dim: int = 0
    dims: int = 2

    def __post_init__(self) -> None:
        check_levels(self.attention_levels, self.levels)

    @property
    def widths(self) -> list[int]:
        return [self.channels * m for m in self.channel_mult]

    @property
    def embedding(self) -> int:
        """Width of the embedding of noise and label."""
        return 4 * self.channels

    def block(self, c_in: int, c_out: int, resample: nn.Module | None = None) -> ResidualBlock:
        settings = {"dropout": self.dropout, "scale_shift": self.scale_shift, "dims": self.dims}
        return ResidualBlock(c_in, c_out, self.embedding, resample=resample, **settings)

    def attending(self, c_in: int, c: int) -> Stage:
        cross = PixelCrossAttention(c, self.text_dim, self.head_channels) if self.text_dim else None
        return Stage(self.block(c_in, c), SelfAttention(c, self.head_channels, dims=self.dims), cross)

    def down(self, c_in: int, level: int) -> Stage:
        """With attention where the level has it."""
        c = self.widths[level]
        return self.attending(c_in, c) if level in self.attention_levels else Stage(self.block(c_in, c))

    def half(self, c: int) -> nn.Module:
        if self.residual_resample:
            return Stage(self.block(c, c, mean_of_halves(self.dims)))
        return Resample(Downsample(c, self.dims))

    def middle(self, c: int) -> nn.ModuleList:
        return nn.ModuleList([self.attending(c, c), Stage(self.block(c, c))])

    def up(self, c_in: int, level: int, last: bool) -> Stage:
        return self.down(c_in, level)

    def double(self, c: int) -> nn.Module:
        if self.residual_resample:
            return Stage(self.block(c, c, nn.Upsample(scale_factor=2.0)))
        return Resample(Upsample(c, self.dims))


class UNet(UNetSkeleton):
    """F(x (B, C, H, W), c_noise (B,), signals) ↦ (B, C, H, W), for any H and W of at least ``min_size``.

    With ``dims`` 1 for sequences (B, C, L), with 3 for (B, C, T, H, W): every convolution, halving and doubling is over
    so many axes, and attention over all positions.

    Level l has ``channels * channel_mult[l]`` channels at 1/2^l of the resolution and ``blocks`` residual blocks on
    the way down, one more on the way up, where every activation of the way down is concatenated. An odd size is halved
    upwards, 7 to 4, and the row and column too many are cut off on the way up. Ho et al. 2020
    (arXiv:2006.11239, app. B); Dhariwal & Nichol 2021 (arXiv:2105.05233, sec. 3) add ``scale_shift``,
    ``residual_resample`` (up- and downsampling inside residual blocks) and heads of 64 channels.

    ``attention_levels`` are levels, not pixel sizes: level 1 of a 32×32 image is 16×16. ``num_classes`` > 0 adds a
    class embedding for the signal ``label``. ``text_dim`` > 0 adds attention to ``text`` after each self-attention
    (arXiv:2112.10752, sec. 3.3) and, with ``pooled_dim`` > 0, its one vector to the embedding of the noise level.
    ``image_channels`` > 0 reads ``image``: its channels, and one that says where it is known, are further input of the
    first convolution, whose weights for them start at zero (arXiv:2211.09800, sec. 3.2). {edges: 1, depth: 1} reads
    several pictures, by the names of their signals. ``reads_end`` adds an embedding of ``end`` to that of the noise
    level, which starts at zero: the network of a flow map. ``reads_guidance_scale`` does so for ``guidance_scale``.

    ``checkpointing`` recomputes each stage in the backward pass: less memory for about a third more time.
    With ``learned_variance`` 2 C channels come out, the second half for the variance of a reverse step (Nichol &
    Dhariwal 2021, arXiv:2102.09672). Convolutions that end a residual branch, and the last one, start at zero.
    """

    def __init__(
        self,
        in_channels: Width,
        channels: Width = 128,
        channel_mult: Multiples = (1, 2, 2, 2),
        blocks: Depth = 2,
        attention_levels: Levels = (1,),
        head_channels: WidthOrNone = 64,
        dropout: BelowOne = 0.0,
        num_classes: Classes = 0,
        scale_shift: bool = True,
        residual_resample: bool = False,
        checkpointing: bool = False,
        learned_variance: bool = False,
        text_dim: WidthOrNone = 0,
        pooled_dim: WidthOrNone = 0,
        dims: Axes = 2,
        image_channels: ImageChannels = 0,
        reads_end: bool = False,
        reads_guidance_scale: bool = False,
    ):
        super().__init__()
        block = (head_channels, dropout, scale_shift, residual_resample)
        stages = UNetStages(channels, channel_mult, blocks, attention_levels, *block, text_dim, dims)
        self.dims = dims
        self.min_size = stages.min_size
        self.blocks = blocks
        self.reads = reads(num_classes, text_dim, image_channels, reads_end, reads_guidance_scale)
        self.image_channels = image_channels
        self.checkpointing = checkpointing
        self.noise = NoiseEmbedding(channels, stages.embedding)
        self.label = LabelEmbedding(num_classes, stages.embedding) if num_classes else None
        self.text = TextEmbedding(text_dim, pooled_dim, stages.embedding) if text_dim else None
        self.first = conv(dims, in_channels, channels)
        self.down, self.skip_channels = way_down(stages, channels)
        self.middle = stages.middle(self.skip_channels[-1])
        self.up = way_up(stages, self.skip_channels)
        c = stages.widths[0]
        last = conv(dims, c, channels_out(in_channels, learned_variance))
        self.last = nn.Sequential(group_norm(c), nn.SiLU(), zero(last))
        wide = width(image_channels)
        self.image = zero(conv(dims, wide, channels, bias=False)) if wide else None
        self.end = NumberEmbedding(stages.embedding) if reads_end else None
        self.guidance_scale = NumberEmbedding(stages.embedding) if reads_guidance_scale else None

    def embed(self, c_noise: Tensor, signals: Signals) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The embedding of noise level and condition; tokens of a text and their mask, where the network reads one."""
        label, embedding = label_index(signals, c_noise), self.noise(c_noise)
        if self.label:
            embedding = embedding + self.label(label)
        if not self.text:
            return embedding, None, None
        text, mask, pooled = self.text(signals.get("text"), len(c_noise))
        return embedding + pooled, text, mask
