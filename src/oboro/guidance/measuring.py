"""What all guidance by a measurement y = A x + noise shares."""

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from oboro.condition import Signal
from oboro.guidance.gradient import linearized
from oboro.guidance.guidance import Guidance
from oboro.measurement import Measured
from oboro.restore import Trained
from oboro.schedule import Schedule, expand_as

NEAR = 1e-2  # share of the length of x̂0 by which it is moved for a difference quotient: A(decode) is linear there


class Measuring(Guidance):
    """Guidance by ``Condition.sampling["measured"]`` of the denoiser that the guidance ``inside`` makes.

    So classifier-free guidance inside of it draws what fits to the condition and to the measurement.
    """

    def __init__(self, inside: Guidance):
        self.inside = inside

    @property
    def measures(self) -> bool:
        return True

    @property
    def drops(self) -> bool:
        return self.inside.drops

    def leaves_out(self, given: Collection[str]) -> set[str]:
        return self.inside.leaves_out(given)

    @property
    def networks(self) -> Sequence[nn.Module]:
        return self.inside.networks

    @property
    def compared(self) -> Sequence[Trained]:
        return self.inside.compared

    @property
    def reads(self) -> Mapping[str, type[Signal]]:
        return self.inside.reads

    @property
    def follows_score(self) -> bool:
        return self.inside.follows_score

    @property
    def stepwise(self) -> bool:
        return self.inside.stepwise

    @property
    def learned_scale(self) -> float | None:
        return self.inside.learned_scale

    @property
    def idle(self) -> Sequence[str]:
        return [f"inside.{key}" for key in self.inside.idle]

    @property
    def target(self) -> int | None:
        return self.inside.target

    @property
    def negative(self) -> Mapping[str, int]:
        return getattr(self.inside, "negative", {})


def spread(t: Tensor, schedule: Schedule, std: float) -> Tensor:
    """r² = sigma² std² / (alpha² std² + sigma²), (B,): the variance of x given x_t for data N(., std² I)."""
    alpha, sigma = schedule(t)
    return (sigma * std) ** 2 / ((alpha * std) ** 2 + sigma**2)


def predicted(measured: Measured, x0: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A x̂0, and Aᵀ; of latents A(decode(x̂0)), and the adjoint of its derivative."""
    if measured.decode is None:
        return measured.operator(x0), measured.operator.adjoint
    decode = measured.decode
    return linearized(lambda z: measured.operator(decode(z)), x0)


def forward(measured: Measured, x0: Tensor, here: Tensor) -> Callable[[Tensor], Tensor]:
    """v ↦ A v; of latents v ↦ A times the Jacobian of the decoder at x̂0 times v, by a difference quotient: one more
    pass of the decoder. ``here`` is A x̂0."""
    if measured.decode is None:
        return measured.operator
    decode = measured.decode

    def difference(v: Tensor) -> Tensor:
        square = _square(v)
        small = NEAR * (_square(x0) / torch.where(square > 0, square, 1)).sqrt()
        there = measured.operator(decode(x0 + expand_as(small, x0) * v))
        return (there - here) / expand_as(torch.where(small > 0, small, 1), here)

    return difference


def correction(measured: Measured, x0: Tensor, r2: Tensor) -> Tensor:
    """Aᵀ (A Aᵀ + (sigma_y² / r²) I)⁻¹ (y - A x̂0): by what the mean moves if x is N(x̂0, r² I) and y is measured.

    A⁺ (y - A x̂0) without noise. For latents A is A times the Jacobian of the decoder, and one step of conjugate
    gradients towards that is made: exact where A Aᵀ then is a multiple of I.
    """
    variance = measured.noise.to(r2) ** 2
    ratio = torch.where(variance > 0, variance / r2, 0).clamp(max=1e12)
    here, adjoint = predicted(measured, x0)
    difference = torch.where(expand_as(variance.isfinite(), here), measured.y - here, 0)
    if measured.decode is None:
        return adjoint(measured.operator.solve(difference, torch.ones_like(ratio), ratio))
    gradient = adjoint(difference)
    square = _square(gradient)
    curvature = _square(forward(measured, x0, here)(gradient)) + ratio * square
    return expand_as(torch.where(curvature > 0, square / torch.where(curvature > 0, curvature, 1), 0), x0) * gradient


def _square(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1)
