from math import cos, exp, log, pi, sin

import pytest
import torch

from oboro.schedule import VE, VP, Cosine, Karras, Linear

pytestmark = pytest.mark.usefixtures("global_generator_unread")

INTERIOR = torch.linspace(0.01, 0.99, 197, dtype=torch.float64)
WHOLE = torch.linspace(0, 1, 1001, dtype=torch.float64)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


def test_t_from_log_snr_inverts_log_snr(schedule):
    torch.testing.assert_close(schedule.t_from_log_snr(schedule.log_snr(INTERIOR)), INTERIOR, atol=1e-10, rtol=0)


def test_t_from_log_snr_leads_outside_where_the_schedule_has_ended(schedule):
    first, last = schedule.log_snr(ENDS)
    if first.isfinite():
        assert schedule.t_from_log_snr(first + 1) < 0
    if last.isfinite():
        assert schedule.t_from_log_snr(last - 1) > 1


def test_log_snr_is_the_log_of_the_ratio_of_variances(schedule):
    alpha, sigma = schedule(INTERIOR)
    torch.testing.assert_close(schedule.log_snr(INTERIOR), 2 * torch.log(alpha / sigma), atol=1e-10, rtol=1e-10)


def test_the_signal_only_shrinks_and_the_noise_only_grows(schedule):
    alpha, sigma = schedule(WHOLE)
    assert alpha[0] == 1
    assert (alpha.diff() <= 0).all() and (alpha >= 0).all()
    assert (sigma.diff() > 0).all() and (sigma >= 0).all()
    assert (schedule.log_snr(WHOLE).diff() < 0).all()


def test_log_snr_is_infinite_exactly_where_data_or_signal_is_pure(schedule):
    (alpha_0, alpha_1), (sigma_0, sigma_1) = schedule(ENDS)
    first, last = schedule.log_snr(ENDS)
    assert alpha_0 > 0 and sigma_1 > 0
    assert (first == torch.inf) == (sigma_0 == 0)
    assert (last == -torch.inf) == (alpha_1 == 0)


def test_it_ends_in_noise(schedule):
    alpha, sigma = schedule(ENDS[1:])
    assert alpha / sigma < 0.021  # VE: 1/50


def test_maps_are_elementwise_and_keep_the_type(schedule):
    t = INTERIOR[:12].float()
    for f in (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.t_from_log_snr):
        assert f(t).dtype == torch.float32
        assert torch.equal(f(t.view(2, 3, 2)), f(t).view(2, 3, 2))


@pytest.mark.parametrize("map_", ["alpha", "sigma", "log_snr"])
def test_single_precision_loses_nothing_near_either_end(schedule, map_):
    near = 10.0 ** torch.linspace(-5, -1, 41)
    t = torch.cat([near, (1 - near)[near > 1e-4]])
    f = getattr(schedule, map_)
    torch.testing.assert_close(f(t).double(), f(t.double()), rtol=2e-5, atol=2e-5 if map_ == "log_snr" else 0)


def test_linear_written_out():
    for t in (0.0, 0.25, 1.0):
        assert [float(v) for v in Linear()(torch.tensor(t, dtype=torch.float64))] == [1 - t, t]


def test_cosine_written_out():
    alpha, sigma = Cosine()(INTERIOR)
    for t, a, s in zip(INTERIOR.tolist(), alpha.tolist(), sigma.tolist(), strict=True):
        assert (a, s) == pytest.approx((cos(pi * t / 2), sin(pi * t / 2)), abs=1e-15)


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


def test_karras_uniform_grid_is_equation_5_of_edm():
    low, high, rho, n = 0.002, 80.0, 7.0, 18
    t = torch.tensor([1 - i / (n - 1) for i in range(n)], dtype=torch.float64)
    sigma = Karras(low, high, rho).sigma(t).tolist()
    for i in range(n):
        eq5 = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        assert sigma[i] == pytest.approx(eq5, rel=1e-12)
    assert sigma[0] == pytest.approx(80) and sigma[-1] == pytest.approx(0.002)


@pytest.mark.parametrize("schedule", [Cosine(), VP(), VP(0.2, 5.0)], ids=["cosine", "vp", "vp_mild"])
def test_variance_is_preserved(schedule):
    alpha, sigma = schedule(WHOLE)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(WHOLE), atol=1e-14, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
def test_no_signal_at_all_is_left_at_the_end(schedule, dtype):
    one = torch.ones((), dtype=dtype)
    assert schedule.alpha(one) == 0 and schedule.sigma(one) == 1
    assert schedule.log_snr(one) == -torch.inf


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), VP()], ids=["linear", "cosine", "vp"])
def test_the_beginning_is_exact_data(schedule):
    assert schedule.sigma(torch.zeros(())) == 0


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


def test_add_noise_has_the_moments_of_the_schedule(schedule, normal):
    """x_t of fixed x is N(alpha_t x, sigma_t²), each row at its own time, within five standard errors."""
    n, t = 40_000, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x = normal(3, 1, 1).expand(3, 1, n)
    x_t = schedule.add_noise(x, normal(3, 1, n), t)
    alpha, sigma = schedule(t)
    mean, var = x_t.mean((1, 2)), x_t.var((1, 2))
    assert ((mean - alpha * x[:, 0, 0]).abs() < 5 * sigma / n**0.5).all()
    assert ((var / sigma**2 - 1).abs() < 5 * (2 / n) ** 0.5).all()


def test_add_noise_is_linear_in_data_and_noise(schedule, normal):
    x, eps, t = normal(4, 2, 3, 3), normal(4, 2, 3, 3), INTERIOR[::50]
    alpha, sigma = schedule(t)
    for i in range(4):
        expected = alpha[i] * x[i] + sigma[i] * eps[i]
        torch.testing.assert_close(schedule.add_noise(x, eps, t)[i], expected, rtol=1e-14, atol=1e-14)


def test_prior_is_pure_noise_at_t_1(schedule, normal):
    eps = normal(2, 1, 3, 3)
    t = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(schedule.prior(eps), schedule.add_noise(torch.zeros_like(eps), eps, t))
    assert schedule.prior(eps.float()).dtype == torch.float32
