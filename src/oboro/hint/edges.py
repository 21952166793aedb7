"""Edges of a picture."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from oboro.base.precision import full_float32
from oboro.base.ranges import PositiveShare, Width
from oboro.condition import Image
from oboro.hint.hint import Hint, whole


def sobel_gradient(x: Tensor) -> Tensor:
    """S_h * x and S_v * x (B, C, 2, H, W), along the columns and the rows, of x (B, C, H, W), with Sobel's kernels S.

    Beyond the border lies the last pixel once more.
    """
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=x.dtype, device=x.device)
    channels = x.shape[1]
    both = torch.stack([kernel, kernel.T])[:, None].repeat(channels, 1, 1, 1)
    with torch.autocast(x.device.type, enabled=False), full_float32():
        gradient = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), both, groups=channels)
    return gradient.unflatten(1, (channels, 2))


def sobel(x: Tensor) -> Tensor:
    """min(|∇x| / 4, 1) in [0, 1] of x (B, C, H, W) in [0, 1], |∇x|² = (S_h * x)² + (S_v * x)² (``sobel_gradient``).

    A straight line between 0 and 1 along an axis has 1 on both sides.
    """
    return (sobel_gradient(x).square().sum(2).sqrt() / 4).clamp(max=1)


class Edges(Hint):
    """Sobel's magnitude (``sobel``) from -1, flat, to 1; with a ``threshold`` 1 where it is at least that and else -1.

    With 1 channel of the grey picture, with those of the sample of each colour. One threshold for all pictures: what
    Canny's edges have beyond it, thinning and hysteresis, these have not.
    """

    def __init__(self, channels: Width = 1, threshold: PositiveShare | None = None):
        super().__init__(channels)
        self.threshold = threshold

    def picture(self, x: Tensor, generators: Sequence[torch.Generator]) -> Image:
        strength = sobel((x + 1) / 2)
        if self.threshold is not None:
            strength = (strength >= self.threshold).to(x)
        return whole(2 * strength - 1)
