"""What is known of each sample: a measurement, its operator and its noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.seeding import generator
from oboro.condition import Condition, Signal
from oboro.measurement.mask_shape import MaskShape
from oboro.measurement.measurement import Measurement
from oboro.schedule import expand_as

NAME = "measured"


@dataclass(frozen=True, eq=False)
class Measured(Signal):
    """``y`` = A x + noise n of each sample, (B, ...), with n ~ N(0, I) where A measures; ``noise`` (B,) is its standard
    deviation, and infinite where nothing is known. Guidance and samplers read it as ``Condition.sampling[NAME]``.

    ``decode`` maps latents to x, for models of latents.
    """

    y: Tensor
    noise: Tensor
    operator: Measurement
    decode: Callable[[Tensor], Tensor] | None = None

    def tensors(self) -> dict[str, Tensor]:
        return {"y": self.y, "noise": self.noise, **self.operator.tensors}

    def map(self, f: Callable[[Tensor], Tensor]) -> "Measured":
        return replace(self, y=f(self.y), noise=f(self.noise), operator=self.operator.map(f))

    def drop(self, mask: Tensor) -> "Measured":
        return replace(self, noise=torch.where(mask, torch.inf, self.noise))

    def pasted(self, x: Tensor) -> Tensor:
        """``x`` (B, C, ...) with what is known without noise in its place, to the last bit."""
        known = self.operator.known
        return x if known is None else torch.where(known & expand_as(self.noise == 0, x), self.y.to(x), x)


def measured(cond: Condition) -> Measured:
    """The measurement of the samples. Raises ``UserError`` where there is none."""
    given = cond.sampling.get(NAME)
    if not isinstance(given, Measured):
        raise UserError(
            "this guidance, or sampler, draws towards a measurement and there is none; name it with "
            "measurement=mask_box measured=PICTURE, or choose another."
        )
    return given


def measure(
    x: Tensor, measurement: Measurement | MaskShape, ids: Sequence[int], *, noise: float = 0.0, seed: int = 0
) -> Measured:
    """The measurements of pictures ``x`` (len(ids), C, H, W), in the range of the model and on the CPU.

    What is random, masks and noise, is a function of (seed, id). Raises ``UserError`` for pictures that cannot be
    measured so.
    """
    generators = [generator(seed, "measurement", i) for i in ids]
    operator = measurement.operator(tuple(x.shape[1:]), generators)
    y = operator(x)
    if noise:
        eps = torch.stack([torch.randn(y.shape[1:], generator=g) for g in generators]).to(y)
        y = y + noise * operator.measured(eps)
    return Measured(y, torch.full((len(x),), noise, dtype=x.dtype), operator)
