"""Guidance away from a worse version of the same model."""

from collections.abc import Sequence

from torch import Tensor, nn

from oboro.condition import Condition, kinds_read
from oboro.denoiser import Denoiser, Denoises
from oboro.guidance.extrapolation import Extrapolated
from oboro.guidance.guidance import DenoiserWrapper, Guidance, beside
from oboro.guidance.weight import CONSTANT, Weight
from oboro.restore import Trained
from oboro.restore.trained import restored
from oboro.sampler import Node


class Autoguidance(Guidance):
    """D' = D + (scale - 1) w(t) (D - D_weak) under the same condition.

    ``weak`` is a smaller model of the same data, or one that was trained for a shorter time: it errs in the same
    places, only further. Needs no dropped conditions and works without any. Karras et al. 2024 (arXiv:2406.02507,
    sec. 3). It is evaluated on the schedule of the denoiser, whatever its own was, with those of the signals that it
    reads. A ``Trained`` one is read when guidance is applied.
    """

    def __init__(self, weak: Denoiser | Trained, scale: float = 2.0, weight: Weight = CONSTANT):
        self.weak = weak
        self.scale = scale
        self.weight = weight

    @property
    def networks(self) -> Sequence[nn.Module]:
        return [restored(self.weak).network]

    @property
    def compared(self) -> Sequence[Trained]:
        return [self.weak] if isinstance(self.weak, Trained) else []

    @property
    def idle(self) -> Sequence[str]:
        return ("weak",) if self.scale == 1 else ()

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        weak = Weak(restored(self.weak).reschedule(denoiser.schedule))
        return Extrapolated(denoiser, weak, self.scale, self.weight)


class Weak(DenoiserWrapper):
    """The weak model beside the sample, under those of the signals that it reads."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return beside(self.denoiser, x_t)(x_t, t, self._known(cond))

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        return beside(self.denoiser, x_t).with_variance(x_t, t, self._known(cond))

    def _known(self, cond: Condition) -> Condition:
        return cond.only(*kinds_read(self.denoiser.network)) if isinstance(self.denoiser, Denoiser) else cond
