"""Guidance by the likelihood of a measurement, with the covariance of x given x_t that the denoiser has."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from oboro.base.ranges import Count, Positive
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.guidance.classifier import SILENCE
from oboro.guidance.ddnm import UNGUIDED
from oboro.guidance.gradient import GradientGuided, Pullback
from oboro.guidance.guidance import Guidance
from oboro.guidance.measuring import Measuring, forward, predicted, spread
from oboro.measurement import Measured, measured
from oboro.sampler import Node
from oboro.schedule import expand_as

LEAST = 1e-6  # of r²: a smaller variance along a direction is rounding, or a network's J that is no covariance


class MMPS(Measuring):
    """D' = D + V Aᵀ (A V Aᵀ + sigma_y² I)⁻¹ (y - A D), V = sigma² / alpha Jᵀ, J = ∂D/∂x_t.

    V is the covariance of x given x_t of an exact D, so that D' is E[x | x_t, y] for all Gaussian data: moment matching
    posterior sampling, Rozet et al. 2024 (arXiv:2405.13712, sec. 4.2). ``PiGDM`` has r² I for the inner V. The
    inverse is that many ``iterations`` of conjugate gradients, preconditioned by (A Aᵀ + sigma_y² / r² I)⁻¹, so that
    one is enough where V is a multiple of I. It asks no more of the network than PiGDM does, the first backward pass
    tells the variance along the difference, too; each further one takes another.

    In latents A is A times the Jacobian of the decoder; each product A v is one more pass of it, and there is no
    preconditioner.

    Where alpha < e^-10 sigma, so at pure noise, V is 0/0, and data N(D, std² I) are assumed. ``std`` is that of the
    data and matters nowhere else but in the preconditioner.
    """

    def __init__(self, iterations: Count = 1, std: Positive = 1.0, inside: Guidance = UNGUIDED):
        super().__init__(inside)
        self.iterations = iterations
        self.std = std

    @property
    def follows_score(self) -> bool:
        return True

    @property
    def measures_latents(self) -> bool:
        return True

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return MMPSDenoiser(self.inside(denoiser, grid), self.iterations, self.std)


class MMPSDenoiser(GradientGuided):
    """The denoiser that ``MMPS`` makes."""

    def __init__(self, denoiser: Denoises, iterations: int, std: float):
        super().__init__(denoiser)
        self.iterations = iterations
        self.std = std

    def steer(self, conditional: Tensor, pullback: Pullback, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        alpha, sigma = self.schedule(t)
        heard = alpha >= SILENCE * sigma
        factor = expand_as(torch.where(heard, sigma**2 / torch.where(heard, alpha, 1), 0), x_t)
        r2 = spread(t, self.schedule, self.std)

        def covariance(v: Tensor) -> Tensor:
            return torch.where(expand_as(heard, x_t), factor * pullback(v), expand_as(r2, x_t) * v)

        return conditional + update(measured(cond), conditional, r2, covariance, self.iterations)


def update(
    measured: Measured, x0: Tensor, r2: Tensor, covariance: Callable[[Tensor], Tensor], iterations: int
) -> Tensor:
    """V Aᵀ z (B, ...) after ``iterations`` towards (A V Aᵀ + sigma_y² I) z = y - A x̂0, for v ↦ V v; of samples whose V
    has no positive variance along the way only what was made before, and r² in the first iteration."""
    variance = measured.noise.to(r2) ** 2
    ratio = torch.where(variance > 0, variance / r2, 0).clamp(max=1e12)
    one = torch.ones_like(ratio)
    here, adjoint = predicted(measured, x0)
    a = forward(measured, x0, here)
    residual = torch.where(expand_as(variance.isfinite(), here), measured.y - here, 0)
    noise = expand_as(torch.where(variance.isfinite(), variance, 0), residual)
    moved, direction, before = torch.zeros_like(x0), torch.zeros_like(residual), one
    for k in range(iterations):
        preconditioned = residual if measured.decode else measured.operator.solve(residual, one, ratio)
        square = dot(residual, preconditioned)
        direction = preconditioned + expand_as(square / before, residual) * direction if k else preconditioned
        back = adjoint(direction)
        step = covariance(back)
        image = a(step) + noise * direction
        curvature = dot(direction, image)
        usable = curvature > LEAST * r2 * dot(back, back)
        length = torch.where(usable, square / torch.where(usable, curvature, 1), 0 if k else 1 / r2)
        moved = moved + expand_as(length, x0) * step
        residual = residual - expand_as(length, residual) * image
        before = torch.where(square > 0, square, 1)
    return moved


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product of each sample, (B,)."""
    return (a * b).flatten(1).sum(1)
