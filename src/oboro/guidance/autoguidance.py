"""Guidance away from a worse version of the same model."""

from collections.abc import Sequence

from torch import Tensor, nn

from oboro.denoiser import Cond, Denoiser, Denoises
from oboro.guidance.extrapolation import Extrapolated
from oboro.guidance.guidance import Guidance, beside
from oboro.guidance.weight import CONSTANT, Weight
from oboro.restore import Trained
from oboro.restore.trained import restored
from oboro.sampler import Node


class Autoguidance(Guidance):
    """D' = D + (scale - 1) w(t) (D - D_weak) under the same condition.

    ``weak`` is a smaller model of the same data, or one that was trained for a shorter time: it errs in the same
    places, only further. Needs no dropped conditions and works without any. Karras et al. 2024 (arXiv:2406.02507,
    sec. 3). It is evaluated on the schedule of the denoiser, whatever its own was, and without a condition where it
    reads none. A ``Trained`` one is read when guidance is applied.
    """

    def __init__(self, weak: Denoiser | Trained, scale: float = 2.0, weight: Weight = CONSTANT):
        self.weak = weak
        self.scale = scale
        self.weight = weight

    @property
    def networks(self) -> Sequence[nn.Module]:
        return [restored(self.weak).network]

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        weak = restored(self.weak).reschedule(denoiser.schedule)
        network = weak.network if isinstance(weak, Denoiser) else None
        reads = network is None or network.num_classes or network.text_dim

        def away(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
            return beside(weak, x_t)(x_t, t, cond if reads else {})

        return Extrapolated(denoiser, away, self.scale, self.weight)
