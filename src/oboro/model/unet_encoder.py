"""The way down of a U-Net, which tells classes."""

from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.ranges import Axes, BelowOne, Classes, Depth, Levels, Multiples, Width, WidthOrNone
from oboro.condition import Signals
from oboro.model.layers import (
    AttentionPool,
    MeanPool,
    NoiseEmbedding,
    check_size,
    conv,
    group_norm,
    zero,
)
from oboro.model.unet import UNetStages
from oboro.model.unet_skeleton import EncoderHalf, way_down


class UNetEncoder(EncoderHalf):
    """F(x (B, C, H, W), c_noise (B,), {}) ↦ logits (B, num_classes), for any H and W of at least ``min_size``.

    The way down and the middle of ``UNet`` with the same settings, then a mean over pixels, or with ``attention_pool``
    attention over them, and a linear layer, which starts at zero: every class is as likely. The noisy classifier of
    Dhariwal & Nichol 2021 (arXiv:2105.05233, sec. 4 and app. H). ``dims`` as in ``UNet``. Raises
    ``UserError`` for less than two classes.
    """

    def __init__(
        self,
        in_channels: Width,
        num_classes: Classes,
        channels: Width = 128,
        channel_mult: Multiples = (1, 2, 3, 4),
        blocks: Depth = 2,
        attention_levels: Levels = (1, 2, 3),
        head_channels: WidthOrNone = 64,
        dropout: BelowOne = 0.0,
        scale_shift: bool = True,
        residual_resample: bool = True,
        attention_pool: bool = True,
        checkpointing: bool = False,
        dims: Axes = 2,
    ):
        super().__init__()
        if num_classes < 2:
            raise UserError(
                f"a classifier needs labelled data and data.num_classes is {num_classes}; "
                "set data.num_classes to the number of classes."
            )
        block = (head_channels, dropout, scale_shift, residual_resample)
        stages = UNetStages(channels, channel_mult, blocks, attention_levels, *block, dims=dims)
        self.dims = dims
        self.min_size = stages.min_size
        self.blocks = blocks
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.checkpointing = checkpointing
        self.noise = NoiseEmbedding(channels, stages.embedding)
        self.first = conv(dims, in_channels, channels)
        self.down, self.skip_channels = way_down(stages, channels)
        c = self.skip_channels[-1]
        self.middle = stages.middle(c)
        pool = AttentionPool(c, head_channels) if attention_pool else MeanPool()
        self.last = nn.Sequential(group_norm(c), nn.SiLU(), pool, zero(nn.Linear(c, num_classes)))

    def embed(self, c_noise: Tensor, signals: Signals) -> tuple[Tensor]:
        """The embedding of the noise level."""
        return (self.noise(c_noise),)

    def forward(self, x: Tensor, c_noise: Tensor, signals: Signals) -> Tensor:
        """Raises ``ValueError`` for a size that it cannot halve."""
        check_size(x, self.min_size, self.dims)
        h, _ = self.encode(x, self.arguments(c_noise, signals))
        return self.last(h)
