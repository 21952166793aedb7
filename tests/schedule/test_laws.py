"""Laws of every schedule that has an option."""

import pytest
import torch

from oboro.schedule import (
    DDPM,
    VP,
    Cosine,
    DiscreteCosine,
    Interpolated,
    Laplace,
    ScaledLinear,
    Shifted,
    Sigmoid,
    ZeroTerminalSNR,
)

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


def test_it_ends_in_noise(schedules):
    """Of VE a fiftieth is signal. Stable Diffusion's own table ends with more, as its authors published it: then
    samples, which start in pure noise, start outside of what was learned (arXiv:2305.08891), and ``zero_terminal_snr``
    is there to mend it."""
    signal = {name: float((s.log_snr(ENDS[1:]) / 2).exp()) for name, s in schedules.items()}
    assert signal.pop("scaled_linear") == pytest.approx(0.0684, abs=1e-4)
    assert signal.pop("zero_terminal_snr") == 0
    assert max(signal.values()) < 0.021


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


@pytest.mark.parametrize(
    "schedule",
    [
        *(Cosine(), VP(), VP(0.2, 5.0), Sigmoid(), Laplace(), DDPM(), ScaledLinear(), DiscreteCosine()),
        *(Shifted(VP(), 256), Interpolated(512), ZeroTerminalSNR(VP()), ZeroTerminalSNR(ScaledLinear(), 0.001)),
    ],
    ids=lambda s: type(s).__name__,
)
def test_variance_is_preserved(schedule):
    alpha, sigma = schedule(WHOLE)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(WHOLE), atol=1e-14, rtol=0)


def test_the_beginning_is_exact_data_unless_alpha_is_constant(schedule):
    alpha, sigma = schedule(ENDS)
    assert (alpha[1] == 1) == (sigma[0] > 0)  # Karras and VE, which begin with their least noise


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
