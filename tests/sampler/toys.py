"""Exact flows, and denoisers and noises that watch who asks."""

import torch

from oboro.denoiser.exact import GaussianDenoiser, MixtureDenoiser
from oboro.sampler import nodes

MEAN, STD = 0.3, 0.7


def gaussian(schedule):
    return GaussianDenoiser(MEAN, STD, schedule)


def grid(schedule, start, end, steps):
    return nodes(schedule, torch.linspace(start, end, steps + 1, dtype=torch.float64).tolist())


def no_noise(like):
    raise AssertionError("a sampler of the ODE asked for noise")


class Counter:
    """A denoiser that counts its evaluations and keeps its times."""

    def __init__(self, denoiser):
        self.denoiser, self.schedule, self.times = denoiser, denoiser.schedule, []

    def __call__(self, x_t, t, cond):
        self.times.append(float(t[0]))
        return self.denoiser(x_t, t, cond)

    def with_variance(self, x_t, t, cond):
        self.times.append(float(t[0]))
        return self.denoiser.with_variance(x_t, t, cond)

    def towards(self, alpha, sigma):
        return self


def exact_denoisers(schedule):
    """A Gaussian, and a mixture of two that the sampler has to tell apart."""
    weights, means = torch.tensor([[0.3, 0.7], [-0.6, 0.5]], dtype=torch.float64)
    return GaussianDenoiser(MEAN, STD, schedule), MixtureDenoiser(weights, means, 0.3, schedule)
