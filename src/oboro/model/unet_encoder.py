"""The way down of a U-Net, which tells classes."""

from collections.abc import Sequence

from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.condition import Signals
from oboro.model.layers import (
    AttentionPool,
    MeanPool,
    NoiseEmbedding,
    check_size,
    group_norm,
    run,
    zero,
)
from oboro.model.unet import Stages


class UNetEncoder(nn.Module):
    """F(x (B, C, H, W), c_noise (B,), {}) ↦ logits (B, num_classes), for any H and W of at least ``min_size``.

    The way down and the middle of ``UNet`` with the same settings, then a mean over pixels, or with ``attention_pool``
    attention over them, and a linear layer, which starts at zero: every class is as likely. The noisy classifier of
    Dhariwal & Nichol 2021 (arXiv:2105.05233, sec. 4 and app. H). Raises ``UserError`` for less than two classes.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 2,
        attention_levels: Sequence[int] = (1, 2, 3),
        head_channels: int = 64,
        dropout: float = 0.0,
        scale_shift: bool = True,
        residual_resample: bool = True,
        attention_pool: bool = True,
        checkpointing: bool = False,
    ):
        super().__init__()
        if num_classes < 2:
            raise UserError(
                f"a classifier needs labelled data and data.num_classes is {num_classes}; "
                "set data.num_classes to the number of classes."
            )
        make = Stages(
            channels, channel_mult, blocks, attention_levels, head_channels, dropout, scale_shift, residual_resample
        )
        self.min_size = 2 ** (make.levels - 1)
        self.num_classes = num_classes
        self.checkpointing = checkpointing
        self.noise = NoiseEmbedding(channels, make.embedding)
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.down, (*_, c) = make.down()
        self.middle = make.middle(c)
        pool = AttentionPool(c, head_channels) if attention_pool else MeanPool()
        self.last = nn.Sequential(group_norm(c), nn.SiLU(), pool, zero(nn.Linear(c, num_classes)))

    def forward(self, x: Tensor, c_noise: Tensor, signals: Signals) -> Tensor:
        """Raises ``ValueError`` for any key of ``cond``, or an H×W it cannot halve."""
        check_size(x, self.min_size)
        h, embedding = self.first(x), self.noise(c_noise)
        for stage in (*self.down, *self.middle):
            h = run(stage, h, embedding, recompute=self.checkpointing)
        return self.last(h)
