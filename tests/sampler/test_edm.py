from itertools import pairwise
from math import sqrt

import pytest
import torch

from oboro.condition import Condition
from oboro.sampler import Heun
from oboro.sampler.grid import Uniform
from oboro.schedule import Karras
from sampler.toys import MEAN, STD, gaussian, no_noise

pytestmark = pytest.mark.usefixtures("global_generator_unread")


def test_heun_on_karras_is_algorithm_1_of_edm(normal):
    """arXiv:2206.00364, algorithm 1, written in sigma alone."""
    n, rho, denoiser = 18, 7, gaussian(Karras())
    sigmas = [(80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho for i in range(n)] + [0]

    def D(x, sigma):
        return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)

    x = x_T = 80 * normal(5, 2)
    for i in range(n):
        d = (x - D(x, sigmas[i])) / sigmas[i]
        x_next = x + (sigmas[i + 1] - sigmas[i]) * d
        if sigmas[i + 1] != 0:
            d_next = (x_next - D(x_next, sigmas[i + 1])) / sigmas[i + 1]
            x_next = x + (sigmas[i + 1] - sigmas[i]) * (d + d_next) / 2
        x = x_next
    torch.testing.assert_close(Heun(n)(denoiser, x_T, Condition(), no_noise), x, rtol=1e-9, atol=1e-9)


def test_heun_evaluates_35_times_in_18_steps_of_edm():
    assert Heun(18).evaluations(Karras()) == 35  # arXiv:2206.00364, table 2: NFE 35 on CIFAR-10


def test_churn_adds_the_noise_of_algorithm_2(normal):
    """arXiv:2206.00364, algorithm 2, lines 4 to 11, in sigma alone."""
    low, high, churn, noise_std, n = 0.05, 50.0, 3.0, 1.01, 6
    denoiser, schedule, x, draws = gaussian(Karras()), Karras(), 80 * normal(5, 2), normal(6, 5, 2)
    grid_, used = Uniform()(schedule, n), iter(draws)
    sampler = Heun(n, churn, low, high, noise_std)
    ours = sampler.solve(denoiser, x, grid_, Condition(), lambda like: next(used))
    left = iter(draws)
    for t, s in pairwise(grid_):
        gamma = min(churn / n, sqrt(2) - 1) if low <= t.sigma <= high else 0
        sigma = t.sigma * (1 + gamma)
        if gamma:
            x = x + sqrt(sigma**2 - t.sigma**2) * noise_std * next(left)
        d = (x - denoised(x, sigma)) / sigma
        ahead = x + (s.sigma - sigma) * d
        if s.sigma:
            ahead = x + (s.sigma - sigma) * (d + (ahead - denoised(ahead, s.sigma)) / s.sigma) / 2
        x = ahead
    torch.testing.assert_close(ours, x, rtol=1e-9, atol=1e-9)


def denoised(x, sigma):
    """D of the Gaussian, in sigma alone."""
    return MEAN + STD**2 / (STD**2 + sigma**2) * (x - MEAN)
