from math import cos, exp, log, pi, sin

import pytest
import torch

from oboro.base.errors import UserError
from oboro.schedule import (
    VP,
    Cosine,
    Interpolated,
    Karras,
    Laplace,
    Linear,
    ScaledLinear,
    Shifted,
    Sigmoid,
    ZeroTerminalSNR,
)

pytestmark = pytest.mark.usefixtures("global_generator_unread")

INTERIOR = torch.linspace(0.01, 0.99, 197, dtype=torch.float64)


def test_linear_written_out():
    for t in (0.0, 0.25, 1.0):
        assert [float(v) for v in Linear()(torch.tensor(t, dtype=torch.float64))] == [1 - t, t]


def test_cosine_written_out():
    alpha, sigma = Cosine()(INTERIOR)
    for t, a, s in zip(INTERIOR.tolist(), alpha.tolist(), sigma.tolist(), strict=True):
        assert (a, s) == pytest.approx((cos(pi * t / 2), sin(pi * t / 2)), abs=1e-15)


def test_sigmoid_is_the_difference_quotient_of_its_paper():
    """gamma(t) of Jabri et al. (arXiv:2212.11972), in their own form, which cancels near the ends."""
    for start, end, tau in ((-3, 3, 1.0), (0, 3, 0.3), (-3, 1, 2.0)):
        first, last = (1 / (1 + exp(-v / tau)) for v in (start, end))
        gamma = (last - torch.sigmoid((start + INTERIOR * (end - start)) / tau)) / (last - first)
        torch.testing.assert_close(Sigmoid(start, end, tau).alpha(INTERIOR) ** 2, gamma, rtol=1e-9, atol=0)


def test_sigmoid_falls_linearly_from_data_and_to_noise():
    """gamma = 1 + gamma' t near 0, with S' = S(v) S(-v), to more digits than gamma has."""
    first, last = 1 / (1 + exp(3)), 1 / (1 + exp(-3))
    slope = first * last * 6 / (last - first)
    near = torch.tensor([1e-12, 1e-9], dtype=torch.float64)
    torch.testing.assert_close(Sigmoid().sigma(near) ** 2, slope * near, rtol=1e-7, atol=0)
    torch.testing.assert_close(Sigmoid().alpha(1 - near[1:]) ** 2, slope * near[1:], rtol=1e-6, atol=0)


@pytest.mark.parametrize("arguments", [(3, -3), (0, 0), (-3, 3, 0), (-3, 3, -1.0), (-3, 3, 0.01)])
def test_sigmoid_without_a_range_is_refused(arguments):
    with pytest.raises(UserError, match=r"Sigmoid got.*choose start < end and tau"):
        Sigmoid(*arguments)


@pytest.mark.parametrize(("mu", "b"), [(0.0, 0.5), (-1.0, 1.0), (0.7, 2.0)])
def test_log_snr_of_uniform_times_has_the_laplace_distribution(mu, b):
    """Hang & Gu (arXiv:2407.03297): P(log-SNR < log_snr(t)) = 1 - t, as log-SNR falls."""
    cdf = torch.distributions.Laplace(*torch.tensor([mu, b], dtype=torch.float64)).cdf
    torch.testing.assert_close(cdf(Laplace(mu, b).log_snr(INTERIOR)), 1 - INTERIOR, rtol=1e-12, atol=0)


def test_laplace_is_the_formula_of_its_table():
    for t in (0.1, 0.5, 0.9):
        expected = 0.3 - 0.5 * ((t < 0.5) - (t > 0.5)) * log(1 - 2 * abs(t - 0.5))
        assert float(Laplace(0.3, 0.5).log_snr(torch.tensor(t, dtype=torch.float64))) == pytest.approx(
            expected, rel=1e-12
        )
    with pytest.raises(UserError, match=r"b = 0.*choose one above 0"):
        Laplace(0.0, 0)


def test_karras_uniform_grid_is_equation_5_of_edm():
    low, high, rho, n = 0.002, 80.0, 7.0, 18
    t = torch.tensor([1 - i / (n - 1) for i in range(n)], dtype=torch.float64)
    sigma = Karras(low, high, rho).sigma(t).tolist()
    for i in range(n):
        eq5 = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        assert sigma[i] == pytest.approx(eq5, rel=1e-12)
    assert sigma[0] == pytest.approx(80) and sigma[-1] == pytest.approx(0.002)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "schedule",
    [
        Linear(),
        Cosine(),
        Sigmoid(),
        Laplace(),
        Shifted(Cosine(), 256),
        Shifted(Linear(), 192),
        Interpolated(512),
        ZeroTerminalSNR(VP()),
        ZeroTerminalSNR(ScaledLinear(), 0.001),
    ],
    ids=lambda s: type(s).__name__,
)
def test_no_signal_at_all_is_left_at_the_end(schedule, dtype):
    one = torch.ones((), dtype=dtype)
    assert schedule.alpha(one) == 0 and float(schedule.sigma(one)) == pytest.approx(1, abs=1e-15)
    assert schedule.log_snr(one) == -torch.inf
    assert schedule.t_from_log_snr(torch.inf * one) == 0
    assert float(schedule.t_from_log_snr(-torch.inf * one)) == pytest.approx(1, abs=1e-15)
