from itertools import pairwise
from math import sqrt

import pytest
import torch

from oboro.condition import Condition
from oboro.sampler import DDIM, ddim_step, nodes
from oboro.schedule import VP, Linear
from sampler.toys import gaussian, grid, no_noise

pytestmark = pytest.mark.usefixtures("global_generator_unread")


def test_ddim_on_the_linear_schedule_is_eulers_method_for_the_velocity(normal):
    schedule, x = Linear(), normal(5, 2)
    denoiser, nodes_ = gaussian(schedule), grid(Linear(), 1.0, 0.1, 9)
    expected = x
    for t, s in pairwise(nodes_):
        velocity = (expected - denoiser(expected, torch.full((5,), t.t, dtype=torch.float64), Condition())) / t.t
        expected = expected + (s.t - t.t) * velocity
    torch.testing.assert_close(DDIM(eta=0.0).solve(denoiser, x, nodes_, Condition(), no_noise), expected)


def test_ddim_is_eulers_method_in_noise_over_signal(schedule, normal):
    """d(x/alpha) = eps d(sigma/alpha) with eps held over the step (arXiv:2010.02502, eq. 14)."""
    x, denoiser = normal(5, 2), gaussian(schedule)
    t, s = nodes(schedule, [0.8, 0.7])
    eps = (x - t.alpha * denoiser(x, torch.full((5,), 0.8, dtype=torch.float64), Condition())) / t.sigma
    expected = s.alpha * (x / t.alpha + (s.sigma / s.alpha - t.sigma / t.alpha) * eps)
    torch.testing.assert_close(DDIM(eta=0.0).solve(denoiser, x, [t, s], Condition(), no_noise), expected)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_is_the_posterior_of_ddpm(eta, normal):
    """Mean and variance of q(x_s | x_t, x0) from betas (arXiv:2006.11239, eq. 7); eta² times that variance."""
    x, denoiser = normal(5, 2), gaussian(VP())
    abar_t, abar_s = (float(VP().alpha(torch.tensor(v, dtype=torch.float64))) ** 2 for v in (0.6, 0.58))
    beta = 1 - abar_t / abar_s
    variance = beta * (1 - abar_s) / (1 - abar_t)
    x0 = denoiser(x, torch.full((5,), 0.6, dtype=torch.float64), Condition())

    def step(z):
        return DDIM(eta=eta).solve(
            denoiser, x, nodes(VP(), [0.6, 0.58]), Condition(), lambda like: torch.full_like(like, z)
        )

    torch.testing.assert_close(step(1.0) - step(0.0), torch.full_like(x, eta * sqrt(variance)), rtol=1e-10, atol=1e-10)
    if eta == 1:
        mean = sqrt(abar_s) * beta / (1 - abar_t) * x0 + sqrt(1 - beta) * (1 - abar_s) / (1 - abar_t) * x
    else:  # arXiv:2010.02502, eq. 12
        eps = (x - sqrt(abar_t) * x0) / sqrt(1 - abar_t)
        mean = sqrt(abar_s) * x0 + sqrt(1 - abar_s - eta**2 * variance) * eps
    torch.testing.assert_close(step(0.0), mean, rtol=1e-10, atol=1e-10)


def test_ddim_with_endless_eta_renoises_the_denoised_image(schedule, normal):
    """Multistep consistency sampling: x_s = alpha_s D + sigma_s z."""
    x, z, denoiser = normal(5, 2), normal(5, 2), gaussian(schedule)
    t, s = nodes(schedule, [0.8, 0.5])
    x0 = denoiser(x, torch.full((5,), 0.8, dtype=torch.float64), Condition())
    out = DDIM(eta=1e6).solve(denoiser, x, [t, s], Condition(), lambda like: z)
    torch.testing.assert_close(out, s.alpha * x0 + s.sigma * z)


def test_the_step_keeps_the_noise_that_the_denoised_image_implies(schedule, normal):
    x0, eps = normal(5, 2), normal(5, 2)
    t, s = nodes(schedule, [0.9, 0.4])
    moved = ddim_step(t.alpha * x0 + t.sigma * eps, x0, t, s)
    torch.testing.assert_close(moved, s.alpha * x0 + s.sigma * eps, rtol=1e-10, atol=1e-10)
