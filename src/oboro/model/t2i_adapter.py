"""Control of a trained U-Net by features of a picture that are computed once: T2I-Adapter."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.ranges import Depth, Width
from oboro.condition import Signals
from oboro.model.controlled import Added, Branch, Controlled
from oboro.model.layers import conv, zero
from oboro.model.unet_skeleton import UNetSkeleton


class AdapterBlock(nn.Module):
    """x + conv 1×1(relu(conv 3×3(x))): the residual block of the paper (sec. 3.3)."""

    def __init__(self, channels: int, dims: int):
        super().__init__()
        self.conv1 = conv(dims, channels, channels)
        self.conv2 = conv(dims, channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class AdapterBranch(Branch):
    """A picture ↦ features of each level of a U-Net, which are added to the last activation of that level on the way
    down.

    ``factor``² neighbouring pixels become channels, so that the picture is as large as what the network sees; of each
    level a convolution, that halves from the second level on, and ``blocks`` blocks. What is added comes out of 1×1
    convolutions that start at zero, which the paper's do not: so F begins as the base. Neither x nor the noise level is
    looked at.
    """

    def __init__(self, base: UNetSkeleton, signal: str, channels: int, factor: int, blocks: int):
        super().__init__(signal)
        widths = [base.skip_channels[i] for i in base.level_ends]
        dims, before = base.dims, channels * factor**base.dims
        self.channels, self.factor, self.dims = channels, factor, dims
        self.ends: Sequence[int] = list(base.level_ends)
        self.levels, self.zeros = nn.ModuleList(), nn.ModuleList()
        for k, width in enumerate(widths):
            first = conv(dims, before, width, stride=1 if k == 0 else 2)
            self.levels.append(nn.Sequential(first, *(AdapterBlock(width, dims) for _ in range(blocks))))
            self.zeros.append(zero(conv(dims, width, width, 1)))
            before = width

    def added(self, x: Tensor, c_noise: Tensor, signals: Signals, picture: Tensor) -> Added:
        """Raises ``UserError`` for a picture of other channels, or of another size."""
        if picture.shape[1] != self.channels:
            raise UserError(
                f"the T2I-Adapter was made for hints of {counted(self.channels, 'channels')} and was given one of "
                f"{picture.shape[1]}; set model.hint_channels and image_channels of conditioner=control to the same."
            )
        if tuple(picture.shape[2:]) != tuple(n * self.factor for n in x.shape[2:]):
            raise UserError(
                f"a hint of {tuple(picture.shape[2:])} is not {self.factor} times {tuple(x.shape[2:])}, what the "
                "network sees; give hints as large as the data, and set model.hint_factor to how many pixels along an "
                "axis the codec makes one."
            )
        h, features = self.folded((picture + 1) / 2), {}
        for end, level, z in zip(self.ends, self.levels, self.zeros, strict=True):
            h = level(h)
            features[end] = z(h)
        return Added([], features)

    def folded(self, x: Tensor) -> Tensor:
        """``factor`` pixels along each axis as channels: (B, C factor^dims, ...)."""
        if self.dims == 2:
            return F.pixel_unshuffle(x, self.factor)
        return x.unflatten(-1, (-1, self.factor)).movedim(-1, 2).flatten(1, 2)


class T2IAdapter(Controlled):
    """F(x, c_noise, signals) = base(x, c_noise, signals) with the features of a picture added to its levels: Mou et al.
    2023 (arXiv:2302.08453, eq. 2).

    Smaller than a ControlNet by an order of magnitude, and since nothing depends on x or the noise level its features
    need be computed but once for a sample. It follows less closely. ``hint_channels`` and ``hint_factor`` as in
    ``ControlNet``; both may act together (``controls=``). Raises ``UserError`` for a base that is no U-Net.
    """

    def __init__(
        self,
        base: nn.Module,
        hint_channels: Width,
        hint_factor: Width = 1,
        blocks: Depth = 2,
        checkpointing: bool = False,
    ):
        if not isinstance(base, UNetSkeleton):
            raise UserError(
                f"model=t2i_adapter adds to the levels of a U-Net and {type(base).__name__} has none; set "
                "model.base.path to the checkpoint of a U-Net, or choose model=controlnet."
            )
        branch = AdapterBranch(base, "control", hint_channels, hint_factor, blocks)
        super().__init__(base, branch, checkpointing)
