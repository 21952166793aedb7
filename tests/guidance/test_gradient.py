"""Gradients through the denoiser against the posterior of a linear measurement of Gaussian data, in closed form."""

import pytest
import torch

from oboro.condition import Condition, Label
from oboro.denoiser import Denoiser
from oboro.denoiser.exact import MixtureDenoiser
from oboro.guidance import ClassifierFree, GradientGuided, linearized
from oboro.parameterization import EDM
from oboro.sampler import Heun
from oboro.schedule import VP, Linear, expand_as
from sampler.toys import Counter, gaussian

pytestmark = pytest.mark.usefixtures("global_generator_unread")

A = torch.tensor([[1.0, -0.5, 0.0], [0.2, 0.3, 1.0]], dtype=torch.float64)
Y, STD_Y, MEAN, STD = torch.tensor([0.8, -0.4], dtype=torch.float64), 0.3, 0.3, 0.7
T = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)


class Measured(GradientGuided):
    """D + sigma²/alpha grad log N(y; A x̂0, r² A Aᵀ + std_y² I), r² the variance of x given x_t: PiGDM."""

    def steer(self, conditional, pullback, x_t, t, cond):
        alpha, sigma = self.schedule(expand_as(t, x_t))
        r2 = (sigma * STD) ** 2 / ((alpha * STD) ** 2 + sigma**2)
        cov = r2[..., None] * (A @ A.T) + STD_Y**2 * torch.eye(2, dtype=torch.float64)
        return conditional + sigma**2 / alpha * pullback(torch.linalg.solve(cov, Y - conditional @ A.T) @ A)


def posterior(alpha, sigma, x_t):
    """Mean and covariance of x given y, and x_t if alpha > 0."""
    precision = (1 / STD**2 + alpha**2 / sigma**2) * torch.eye(3, dtype=torch.float64) + A.T @ A / STD_Y**2
    return torch.linalg.solve(precision, MEAN / STD**2 + alpha * x_t / sigma**2 + Y @ A / STD_Y**2), precision.inverse()


@pytest.mark.parametrize("schedule", [Linear(), VP()], ids=["linear", "vp"])
def test_it_is_the_denoiser_given_the_measurement_and_costs_one_evaluation(schedule, normal):
    calls, x_t = Counter(gaussian(schedule)), normal(3, 3)
    with torch.no_grad():
        x0 = Measured(calls)(x_t, T, Condition())
        assert torch.equal(Measured(gaussian(schedule)).with_variance(x_t, T, Condition())[0], x0)
    assert len(calls.times) == 1 and not x0.requires_grad and not x_t.requires_grad
    for i, (alpha, sigma) in enumerate(zip(*schedule(T), strict=True)):
        torch.testing.assert_close(x0[i], posterior(alpha, sigma, x_t[i])[0], rtol=1e-10, atol=1e-10)


def test_samples_have_the_mean_and_the_covariance_of_the_posterior():
    """Affine in x_T, so exactly: from 0 and the three unit vectors."""
    schedule, sampler = VP(), Heun(400)
    x_T = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    with torch.no_grad():
        first, *rest = sampler(Measured(gaussian(schedule)), schedule.prior(x_T), Condition(), None)
    gain = torch.stack(rest) - first
    mean, cov = posterior(0.0, 1.0, first)
    torch.testing.assert_close(first, mean, rtol=0, atol=0.01)
    torch.testing.assert_close(gain.T @ gain, cov, rtol=0, atol=0.01)


def test_the_jacobian_is_that_of_a_guided_network_whose_weights_need_no_gradient(small_unet, normal):
    """Classifier-free guidance inside, under no_grad, by finite differences; weights that learn get no gradient."""
    x_t, v, h = normal(3, 1, 8, 8), normal(3, 1, 8, 8), 1e-6
    cond = Condition.of(label=Label(torch.tensor([0, 1, 2])))
    for learns in (False, True):
        denoiser = Denoiser(small_unet(num_classes=3), Linear(), EDM()).requires_grad_(learns)
        guided = ClassifierFree(3.0)(denoiser, [])
        with torch.no_grad():
            x0, pullback = linearized(lambda x, d=guided: d(x, T, cond), x_t)
            slope = (guided(x_t + h * v, T, cond) - guided(x_t - h * v, T, cond)) / (2 * h)
            w = normal(3, 1, 8, 8)
            assert torch.equal(x0, guided(x_t, T, cond)) and not x0.requires_grad
            torch.testing.assert_close((pullback(w) * v).sum(), (w * slope).sum(), rtol=1e-6, atol=1e-6)
        assert all(p.grad is None for p in denoiser.parameters())


def test_guidance_around_such_guidance_sees_its_whole_jacobian(normal):
    """Second derivatives too: D of a mixture is not linear."""
    weights, means = torch.tensor([[0.3, 0.7], [-0.6, 0.5]], dtype=torch.float64)
    inner, x_t, v, w, h = Measured(MixtureDenoiser(weights, means, 0.3, Linear())), *(normal(3, 3) for _ in "xvw"), 1e-6
    with torch.no_grad():
        _, pullback = linearized(lambda x: inner(x, T, Condition()), x_t)
        slope = (inner(x_t + h * v, T, Condition()) - inner(x_t - h * v, T, Condition())) / (2 * h)
        torch.testing.assert_close((pullback(w) * v).sum(), (w * slope).sum(), rtol=1e-6, atol=1e-6)
