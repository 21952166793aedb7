from math import log, pi

import pytest
import torch

from cases import over
from conftest import PARAMETERIZATIONS, SCHEDULES
from oboro.parameterization import EDM, X0, Consistency, Eps, V, Velocity
from oboro.schedule import VP, Cosine, Karras, Linear

pytestmark = pytest.mark.usefixtures("global_generator_unread")

INTERIOR = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


each_pair = over(schedule=SCHEDULES, parameterization=PARAMETERIZATIONS)


@pytest.fixture
def unit(normal):
    """Data and noise (1, 1000) of exactly zero mean, unit variance and zero correlation."""
    q, _ = torch.linalg.qr(torch.cat([torch.ones(1000, 1, dtype=torch.float64), normal(1000, 2)], 1))
    return 1000**0.5 * q[:, 1:2].T, 1000**0.5 * q[:, 2:3].T


def column(schedule, t):
    """alpha, sigma (T, 1), to go with data (T, n)."""
    alpha, sigma = schedule(t)
    return alpha[:, None], sigma[:, None]


@each_pair
def test_the_target_inverts_to_the_data(schedule, parameterization, normal):
    x, eps, (alpha, sigma) = normal(99, 20), normal(99, 20), column(schedule, INTERIOR)
    c = parameterization(alpha, sigma)
    target = parameterization.target(x, eps, alpha, sigma)
    torch.testing.assert_close(c.c_skip * (alpha * x + sigma * eps) + c.c_out * target, x, atol=1e-9, rtol=0)


@each_pair
def test_input_has_unit_variance(schedule, parameterization, unit):
    x, eps = unit
    alpha, sigma = column(schedule, INTERIOR)
    x_t = parameterization.sigma_data * alpha * x + sigma * eps
    variance = (parameterization(alpha, sigma).c_in * x_t).var(1, correction=0)
    torch.testing.assert_close(variance, torch.ones_like(variance), atol=1e-12, rtol=0)


@over(schedule=SCHEDULES, parameterization=PARAMETERIZATIONS, k=[0.01, 3.7])
def test_scaling_alpha_and_sigma_together_changes_nothing(schedule, parameterization, normal, k):
    """The map from x_t / alpha to D, for any network: what lets sampling use another schedule than training."""
    x_t, (alpha, sigma) = normal(99, 20), column(schedule, INTERIOR)
    c, scaled = parameterization(alpha, sigma), parameterization(k * alpha, k * sigma)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(scaled.c_in * k * x_t, c.c_in * x_t, **close)
    torch.testing.assert_close(scaled.c_noise, c.c_noise, **close)
    torch.testing.assert_close(scaled.c_skip * k * x_t, c.c_skip * x_t, **close)
    torch.testing.assert_close(scaled.c_out, c.c_out, **close)


@each_pair
def test_c_noise_is_finite_at_both_ends_and_grows_with_noise(schedule, parameterization):
    ends = parameterization(*schedule(ENDS)).c_noise
    assert ends.isfinite().all() and ends.abs().max() <= 2.5
    inside = parameterization(*schedule(INTERIOR)).c_noise
    assert (inside.diff() > 0).all()
    assert ends[0] <= inside[0] and inside[-1] <= ends[1]


@each_pair
def test_c_noise_of_any_schedule_is_a_quarter_of_the_log_noise(schedule, parameterization):
    alpha, sigma = schedule(INTERIOR)
    c_noise = parameterization(alpha, sigma).c_noise
    torch.testing.assert_close(c_noise, torch.log(sigma / alpha) / 4, atol=1e-12, rtol=0)


@over(sigma=[0.002, 0.1, 0.5, 1.0, 3.0, 80.0], sigma_data=[0.5, 1.0])
def test_edm_is_table_1_of_karras(sigma, sigma_data):
    """arXiv:2206.00364, table 1, column "Ours"."""
    one = torch.ones((), dtype=torch.float64)
    c = EDM(sigma_data)(one, sigma * one)
    assert float(c.c_skip) == pytest.approx(sigma_data**2 / (sigma**2 + sigma_data**2), rel=1e-12)
    assert float(c.c_out) == pytest.approx(sigma * sigma_data / (sigma_data**2 + sigma**2) ** 0.5, rel=1e-12)
    assert float(c.c_in) == pytest.approx(1 / (sigma**2 + sigma_data**2) ** 0.5, rel=1e-12)
    assert float(c.c_noise) == pytest.approx(log(sigma) / 4, rel=1e-12)


def test_edm_target_has_unit_variance_and_is_uncorrelated_with_the_input(schedule, unit):
    """Karras et al. choose c_out and c_skip by these two conditions (app. B.6)."""
    x, eps = unit
    alpha, sigma = column(schedule, INTERIOR)
    edm = EDM(0.4)
    target = edm.target(0.4 * x, eps, alpha, sigma)
    x_t = alpha * 0.4 * x + sigma * eps
    torch.testing.assert_close(target.var(1, correction=0), torch.ones(99, dtype=torch.float64), atol=1e-12, rtol=0)
    covariance = (target * x_t).mean(1) / x_t.std(1)
    torch.testing.assert_close(covariance, torch.zeros_like(covariance), atol=1e-12, rtol=0)


@pytest.mark.parametrize("schedule", [VP(), Cosine()], ids=["vp", "cosine"])
def test_v_with_preserved_variance_is_edm_up_to_sign(schedule):
    alpha, sigma = schedule(INTERIOR)
    v, edm = V()(alpha, sigma), EDM(sigma_data=1.0)(alpha, sigma)
    for ours, theirs in zip(v, (edm.c_skip, -edm.c_out, edm.c_in, edm.c_noise), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def derivative(schedule, x, eps):
    """d x_t / dt (99, n) by automatic differentiation."""
    return torch.autograd.functional.jvp(
        lambda t: schedule.add_noise(x, eps, t), INTERIOR, torch.ones_like(INTERIOR), strict=True
    )[1]


def test_velocity_is_the_time_derivative_of_the_linear_path(normal):
    x, eps = normal(99, 5), normal(99, 5)
    target = Velocity().target(x, eps, *column(Linear(), INTERIOR))
    torch.testing.assert_close(target, derivative(Linear(), x, eps))


def test_v_is_the_derivative_by_the_angle_of_the_cosine_path(normal):
    """Salimans & Ho: v = d x_t / d phi with phi = arctan(sigma / alpha)."""
    x, eps = normal(99, 5), normal(99, 5)
    target = V().target(x, eps, *column(Cosine(), INTERIOR))
    torch.testing.assert_close(target, derivative(Cosine(), x, eps) / (pi / 2))


def test_eps_and_x0_predict_noise_and_data(schedule, normal):
    x, eps, (alpha, sigma) = normal(99, 5), normal(99, 5), column(schedule, INTERIOR)
    assert torch.equal(Eps().target(x, eps, alpha, sigma), eps)
    assert torch.equal(X0().target(x, eps, alpha, sigma), x)


def test_x0_ignores_the_input_and_keeps_the_output(schedule):
    c = X0()(*schedule(INTERIOR))
    assert (c.c_skip == 0).all()
    torch.testing.assert_close(c.c_out, torch.ones_like(c.c_out))


def test_edm_returns_the_input_where_there_is_no_noise():
    """The boundary condition that consistency models ask for: D(x_0, 0) = x_0."""
    for schedule in (Linear(), Cosine(), VP()):
        c = EDM()(*schedule(ENDS[:1]))
        assert float(c.c_skip) == pytest.approx(1) and float(c.c_out) == 0
    assert float(EDM()(*Karras()(ENDS[:1])).c_skip) == pytest.approx(1, abs=2e-5)


@over(sigma=[0.002, 0.1, 1.0, 80.0])
def test_consistency_is_the_parameterization_of_its_paper(sigma):
    """arXiv:2303.01469, app. C, with epsilon = 0.002 and sigma_data = 0.5."""
    one = torch.ones((), dtype=torch.float64)
    c = Consistency(0.5, 0.002)(one, sigma * one)
    assert float(c.c_skip) == pytest.approx(0.25 / ((sigma - 0.002) ** 2 + 0.25), rel=1e-12)
    assert float(c.c_out) == pytest.approx(0.5 * (sigma - 0.002) / (0.25 + sigma**2) ** 0.5, rel=1e-12)


def test_a_consistency_model_leaves_images_at_its_boundary_alone(schedule, normal):
    """Whatever the network says; and with the boundary at zero noise it is EDM."""
    t = schedule.t_from_log_snr(torch.full((1,), -2 * log(0.002), dtype=torch.float64))
    alpha, sigma = schedule(t)
    x_t = normal(5)
    c = Consistency(0.5, 0.002)(alpha, sigma)
    if 0 < t < 1:
        torch.testing.assert_close(c.c_skip * x_t + c.c_out * normal(5), x_t / alpha, rtol=1e-8, atol=1e-8)
    at = schedule(INTERIOR)
    for ours, theirs in zip(Consistency(0.4, 0.0)(*at), EDM(0.4)(*at), strict=True):
        torch.testing.assert_close(ours.abs(), theirs.abs(), rtol=1e-12, atol=1e-12)
