"""How probable data are to a model: the density that the probability-flow ODE carries from noise to data.

The ODE of Song et al. 2021 (arXiv:2011.13456, eq. 13) is solved in z = x_t / sqrt(alpha² + sigma²) and in the log-SNR
lambda. With cos phi = alpha / sqrt(alpha² + sigma²) and sin phi = sigma / sqrt(alpha² + sigma²) a noisy image is
z = cos phi x + sin phi eps, dphi / dlambda = -sin phi cos phi / 2, and for every schedule

    dz / dlambda = f(z, lambda) = -cos phi (cos phi z - x̂0) / 2
    d log p(z) / dlambda = -div f = cos phi (D cos phi - div x̂0) / 2

with D dimensions. Both vanish at either end. Going from data to noise, at the largest and the smallest log-SNR,

    log p(x) = log N(z_noise; 0, sin² phi_noise) + ∫ div f dlambda + D log cos phi_data.
"""

from collections.abc import Sequence
from math import hypot, log, log2, pi
from typing import NamedTuple

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.precision import full_float32
from oboro.base.seeding import generator
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler import denoise, nodes
from oboro.schedule import Schedule

# Where a schedule has no end. There remain e^{-15/2} = 5.5e-4 of noise in the data, a fourteenth of the distance of two
# 8-bit levels, and as much signal in the noise.
LARGEST_LOG_SNR = 15.0


class Point(NamedTuple):
    """A node of the grid: time, angle and the factor from z to x_t."""

    t: float
    cos: float
    sin: float
    scale: float


def log_snr_grid(schedule: Schedule, steps: int) -> tuple[list[Point], float]:
    """2 ``steps`` + 1 nodes from data to noise, uniform in log-SNR, and the step of every second one (negative).

    From the schedule's largest log-SNR to its smallest, both cut at ± ``LARGEST_LOG_SNR``.
    """
    ends = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu"))
    first, last = ends.clamp(-LARGEST_LOG_SNR, LARGEST_LOG_SNR).tolist()
    log_snr = torch.linspace(first, last, 2 * steps + 1, dtype=torch.float64, device="cpu")
    grid = []
    for t, alpha, sigma in nodes(schedule, schedule.t_from_log_snr(log_snr).clamp(0, 1).tolist()):
        scale = hypot(alpha, sigma)
        grid.append(Point(t, alpha / scale, sigma / scale, scale))
    return grid, (last - first) / steps


def flow(denoiser: Denoises, z: Tensor, at: Point, cond: Condition, probes: Tensor) -> tuple[Tensor, Tensor]:
    """f(z) (B, ...) and the estimate (B,) of div f, float64 on the CPU.

    tr J is the mean of vᵀ J v over the probes v (Hutchinson 1989), a vector-Jacobian product each.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        x0 = denoise(denoiser, at.scale * z, at.t, cond)
        left = len(probes)
        trace = torch.zeros(len(z), dtype=torch.float64)
        for v in probes:
            left -= 1
            (product,) = torch.autograd.grad(x0, z, v, retain_graph=left > 0)
            trace += (v * product).flatten(1).sum(1).cpu() / len(probes)
    slope = -at.cos / 2 * (at.cos * z.detach() - x0.detach())
    return slope, -at.cos / 2 * (at.cos * z[0].numel() - trace)


@full_float32()
def log_likelihood(denoiser: Denoises, x: Tensor, cond: Condition, *, steps: int, probes: Tensor) -> Tensor:
    """log p(x) in nats, (B,) float64 on the CPU, of continuous data ``x`` (B, ...) in the scale of the model.

    p is the density of the model's x + (sigma / alpha) eps at the largest log-SNR, with the smallest log-SNR reached in
    N(0, sigma²), as samplers assume. Solved by ``steps`` steps of the classical Runge-Kutta method, of fourth order, on
    a grid uniform in log-SNR, with 4 evaluations of the denoiser a step.

    ``probes`` (P, B, ...) are independent of ``x`` with E[v vᵀ] = I, and the same along the whole path. The result is
    exact for P = D with the rows of sqrt(D) I, and otherwise an estimate without bias (up to the error of the steps).
    Call it on a denoiser in evaluation mode; it needs no gradient of the weights and leaves none. Half precision and
    TF32 do not do: near data x̂0 is subtracted from z, and what remains is a thousandth of either.
    Song et al. 2021 (arXiv:2011.13456, eq. 39-40); Grathwohl et al. 2019 (arXiv:1810.01367, sec. 3.1).
    """
    if steps < 1 or len(probes) < 1:
        raise UserError(f"a likelihood of {steps} steps and {len(probes)} probes is none; set both to 1 or more.")
    grid, h = log_snr_grid(denoiser.schedule, steps)
    dimensions = x[0].numel()
    z = grid[0].cos * x.detach()
    change = torch.zeros(len(x), dtype=torch.float64)
    for a, middle, b in zip(grid[:-2:2], grid[1:-1:2], grid[2::2], strict=True):
        k1, d1 = flow(denoiser, z, a, cond, probes)
        k2, d2 = flow(denoiser, z + h / 2 * k1, middle, cond, probes)
        k3, d3 = flow(denoiser, z + h / 2 * k2, middle, cond, probes)
        k4, d4 = flow(denoiser, z + h * k3, b, cond, probes)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        change += h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    variance = grid[-1].sin ** 2
    squares = z.flatten(1).square().sum(1).cpu().double()
    prior = -(squares / variance + dimensions * log(2 * pi * variance)) / 2
    return prior + change + dimensions * log(grid[0].cos)


def rademacher(like: Tensor, count: int, seed: int, ids: Sequence[int]) -> Tensor:
    """``count`` probes (count, B, ...) of ±1 for ``like`` (B, ...); those of row i depend on (seed, ids[i]) alone.

    vᵀ J v has the variance 2 sum_{i≠j} S_ij² with S = (J + Jᵀ) / 2, the smallest of independent entries of variance 1.
    """
    shape = (count, *like.shape[1:])
    draws = [torch.randint(2, shape, generator=generator(seed, "probe", i)) for i in ids]
    return (2 * torch.stack(draws, 1) - 1).to(like)


def dequantise(images: Tensor, seed: int, ids: Sequence[int]) -> Tensor:
    """(k + u - 1/2) / 127.5 - 1, float32, of uint8 ``images`` (B, ...), u uniform in [0, 1): anywhere in the bin of k.

    Bins are centred on the values that training sees and 1 / 127.5 wide. The noise of row i depends on
    (seed, ids[i]) alone.
    """
    u = torch.stack([torch.rand(images.shape[1:], generator=generator(seed, "dequantise", i)) for i in ids])
    return (images.float() + u.to(images.device) - 0.5) / 127.5 - 1


def bits_per_dim(
    denoiser: Denoises,
    images: Tensor,
    cond: Condition,
    *,
    seed: int,
    ids: Sequence[int],
    steps: int = 64,
    probes: int = 1,
) -> Tensor:
    """-(log p(x) - D log 127.5) / (D log 2) of dequantised uint8 ``images`` (B, ...): (B,) float64 on the CPU.

    x is uniform in the bin of the image, of volume 127.5^{-D}. By Jensen's inequality the mean over x is at least
    -log2 P(image) / D, with P the mass of p in the bin (Theis et al. 2016, arXiv:1511.01844, sec. 3.1). 8 is what a
    code without a model needs. For models of pixels: a density of latents is none of images. ``ids`` name the images,
    one each; dequantisation and probes depend on (seed, id) alone.
    """
    x = dequantise(images, seed, ids)
    nats = log_likelihood(denoiser, x, cond, steps=steps, probes=rademacher(x, probes, seed, ids))
    return log2(127.5) - nats / (x[0].numel() * log(2))
