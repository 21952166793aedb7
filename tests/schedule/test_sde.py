from math import exp, log

import numpy as np
import pytest
import torch

from oboro.schedule import VE, VP, SubVP

pytestmark = pytest.mark.usefixtures("global_generator_unread")

INTERIOR = torch.linspace(0.01, 0.99, 197, dtype=torch.float64)
WHOLE = torch.linspace(0, 1, 1001, dtype=torch.float64)


def test_vp_solves_its_differential_equation():
    """d log alpha / dt = -beta(t) / 2 with beta linear from beta_min to beta_max (arXiv:2011.13456, eq. 32)."""
    vp, t = VP(0.1, 20.0), INTERIOR.clone().requires_grad_()
    (slope,) = torch.autograd.grad(torch.log(vp.alpha(t)).sum(), t)
    torch.testing.assert_close(slope, -(0.1 + 19.9 * INTERIOR) / 2, atol=1e-12, rtol=0)


def test_ve_is_geometric():
    sigma = VE(0.01, 50.0).sigma(WHOLE)
    torch.testing.assert_close(sigma[[0, -1]], torch.tensor([0.01, 50.0], dtype=torch.float64), rtol=1e-13, atol=0)
    ratio = torch.full((1000,), exp(log(5000) / 1000), dtype=torch.float64)
    torch.testing.assert_close(sigma[1:] / sigma[:-1], ratio, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["vp", "sub_vp", "ve"])
def test_the_marginals_solve_the_stochastic_differential_equation(name, schedules):
    """dx = -beta/2 x dt + g dw has d log alpha / dt = -beta/2 and d sigma² / dt = g² - beta sigma².

    g² is beta for VP, beta (1 - exp(-2 B)) for sub-VP and d sigma² / dt for VE (arXiv:2011.13456, eq. 32, 28 and 30).
    """
    schedule, t = schedules[name], INTERIOR.clone().requires_grad_()
    beta, integral = 0.1 + 19.9 * INTERIOR, 0.1 * INTERIOR + 19.9 / 2 * INTERIOR**2
    beta, squared = {
        "vp": (beta, beta),
        "sub_vp": (beta, beta * (1 - torch.exp(-2 * integral))),
        "ve": (0 * beta, 0.01**2 * 5000 ** (2 * INTERIOR) * 2 * log(5000)),
    }[name]
    (shrinking,) = torch.autograd.grad((torch.log(schedule.alpha(t)) + 0 * t).sum(), t)
    (growing,) = torch.autograd.grad((schedule.sigma(t) ** 2).sum(), t)
    torch.testing.assert_close(shrinking, -beta / 2, atol=1e-12, rtol=0)
    torch.testing.assert_close(growing, squared - beta * schedule.sigma(INTERIOR) ** 2, atol=1e-12, rtol=1e-12)


def test_the_sde_of_ve_itself_has_less_variance_by_that_of_its_beginning():
    """The integral of g² from 0 is sigma_t² - sigma_0² (Gauss-Legendre of order 50); ours adds sigma_0² to it."""
    ve = VE()
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(50))
    for t in (0.1, 0.5, 1.0):
        squared = 2 * log(5000) * ve.sigma((x + 1) / 2 * t) ** 2
        variance = float((squared * w).sum()) * t / 2
        assert variance + 0.01**2 == pytest.approx(
            float(ve.sigma(torch.tensor(t, dtype=torch.float64))) ** 2, rel=1e-12
        )


def test_sub_vp_has_the_signal_and_the_squared_noise_of_vp():
    (alpha, sigma), (alpha_vp, sigma_vp) = SubVP(0.3, 12.0)(WHOLE), VP(0.3, 12.0)(WHOLE)
    torch.testing.assert_close(alpha, alpha_vp, rtol=1e-14, atol=0)
    torch.testing.assert_close(sigma, sigma_vp**2, rtol=1e-13, atol=0)


def distance_from_ddpm(steps: int) -> float:
    """Largest difference of log alpha² between VP at t = n/steps and DDPM's cumulative product of 1 - beta."""
    beta = torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return float((2 * torch.log(VP().alpha(t)) - torch.cumsum(torch.log1p(-beta), 0)).abs().max())


def test_vp_is_the_limit_of_ddpm():
    assert torch.linspace(0.1 / 1000, 20 / 1000, 1000)[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    assert distance_from_ddpm(1000) < 0.07  # of log alpha² = -10 at the end; beta²/2 summed
    # First order: each doubling of the steps halves the distance.
    assert distance_from_ddpm(1000) / distance_from_ddpm(2000) == pytest.approx(2, abs=0.05)
    assert distance_from_ddpm(8000) / distance_from_ddpm(16000) == pytest.approx(2, abs=0.01)
