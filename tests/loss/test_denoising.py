from math import exp, inf, log

import pytest
import torch
from scipy import stats
from torch import nn

from oboro.denoiser import Denoiser, GaussianDenoiser
from oboro.loss import (
    SNR,
    Denoising,
    EDMWeight,
    LogitNormal,
    LogNormalSigma,
    MinSNR,
    TimeDistribution,
    Uniform,
    UniformT,
    Weight,
)
from oboro.loss.denoising import T_MIN
from oboro.parameterization import EDM, Eps, V
from oboro.schedule import VP, Karras, Linear, expand_as

pytestmark = pytest.mark.usefixtures("global_generator_unread")

WEIGHTS = [cls() for cls in Weight.__subclasses__()]
TIMES = [cls() for cls in TimeDistribution.__subclasses__()]

each_weight = pytest.mark.parametrize("weight", WEIGHTS, ids=lambda w: type(w).__name__)
each_time = pytest.mark.parametrize("time", TIMES, ids=lambda p: type(p).__name__)

U = torch.tensor([0.02, 0.3, 0.5, 0.8, 0.97], dtype=torch.float64)
CDF = {
    UniformT: lambda t, schedule: t,
    LogitNormal: lambda t, schedule: torch.special.ndtr(torch.logit(t)),
    LogNormalSigma: lambda t, schedule: torch.special.ndtr((-schedule.log_snr(t) / 2 + 1.2) / 1.2),
}


class Wave(nn.Module):
    """A network without weights that depends on all of its arguments."""

    def forward(self, x, c_noise, cond):
        return torch.sin(3 * x + expand_as(c_noise, x)) + sum(expand_as(v, x) for v in cond.values())


class Recorder:
    """A denoiser that keeps (x_t, t) and answers 0."""

    def __init__(self, schedule, parameterization):
        self.schedule, self.parameterization = schedule, parameterization

    def __call__(self, x_t, t, cond):
        self.x_t, self.t = x_t, t
        return torch.zeros_like(x_t)


class Perturbed:
    """The exact denoiser plus ``change(D, c_out)``."""

    def __init__(self, schedule, parameterization, change):
        self.exact = GaussianDenoiser(0.3, 0.7, schedule)
        self.schedule, self.parameterization, self.change = schedule, parameterization, change

    def __call__(self, x_t, t, cond):
        exact = self.exact(x_t, t, cond)
        c_out = expand_as(self.parameterization(*self.schedule(t)).c_out, x_t)
        return exact + self.change(exact, c_out)


def by_hand(denoiser, x, cond, t, eps):
    """x_t, network output, network target and the coefficients, each step written out."""
    alpha, sigma = (expand_as(c, x) for c in denoiser.schedule(t))
    c = denoiser.parameterization(alpha, sigma)
    x_t = alpha * x + sigma * eps
    output = denoiser.network(c.c_in * x_t, c.c_noise.flatten(), cond)
    return x_t, output, denoiser.parameterization.target(x, eps, alpha, sigma), c


def test_uniform_weight_is_plain_mse_on_the_target_of_the_network(schedule, parameterization, normal):
    if isinstance(parameterization, Eps) and schedule.alpha(torch.ones(())) == 0:
        return
    denoiser = Denoiser(Wave(), schedule, parameterization)
    x, eps, cond = normal(5, 1, 4, 4), normal(5, 1, 4, 4), {"label": normal(5)}
    loss = Denoising(UniformT(), Uniform()).at_quantile(denoiser, x, cond, U, eps)
    _, output, target, _ = by_hand(denoiser, x, cond, U, eps)
    torch.testing.assert_close(loss, ((output - target) ** 2).mean((1, 2, 3)), rtol=1e-8, atol=1e-12)


def test_snr_weight_is_mse_on_the_noise(schedule, parameterizations, normal):
    for parameterization in (p for name, p in parameterizations.items() if name != "eps"):
        denoiser = Denoiser(Wave(), schedule, parameterization)
        x, eps = normal(5, 1, 4, 4), normal(5, 1, 4, 4)
        loss = Denoising(UniformT(), SNR()).at_quantile(denoiser, x, {}, U, eps)
        x_t, output, _, c = by_hand(denoiser, x, {}, U, eps)
        alpha, sigma = (expand_as(v, x) for v in schedule(U))
        predicted_eps = (x_t - alpha * (c.c_skip * x_t + c.c_out * output)) / sigma
        torch.testing.assert_close(loss, ((predicted_eps - eps) ** 2).mean((1, 2, 3)), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_edm_weight_is_the_inverse_square_of_its_c_out(schedule, sigma_data):
    c_out = EDM(sigma_data)(*schedule(U)).c_out
    weight = EDMWeight(sigma_data)(schedule.log_snr(U), torch.full_like(U, torch.nan))
    torch.testing.assert_close(weight, c_out**-2, rtol=1e-10, atol=0)


def test_edm_weight_written_out():
    """lambda(sigma) = (sigma² + sigma_data²) / (sigma sigma_data)² (arXiv:2206.00364, table 1)."""
    sigma = Karras().sigma(U)
    weight = EDMWeight(0.5)(Karras().log_snr(U), U)
    torch.testing.assert_close(weight, (sigma**2 + 0.25) / (sigma * 0.5) ** 2, rtol=1e-12, atol=0)


def test_min_snr_weight_is_the_smaller_of_snr_and_gamma(schedule):
    alpha, sigma = schedule(U)
    weight = MinSNR(5.0)(schedule.log_snr(U), U)
    torch.testing.assert_close(weight, ((alpha / sigma) ** 2).clamp(max=5), rtol=1e-10, atol=0)
    assert weight[0] == pytest.approx(5, rel=1e-12) and weight[-1] < 5


@each_weight
def test_weights_are_finite_and_not_negative_over_the_whole_schedule(weight, schedule):
    t = torch.linspace(T_MIN, 1, 1001)
    w = weight(schedule.log_snr(t), V()(*schedule(t)).c_out)
    assert w.isfinite().all() and (w >= 0).all()


@each_weight
@pytest.mark.parametrize(
    "change",
    [
        lambda exact, c_out: 0.1 * c_out,
        lambda exact, c_out: -0.1 * c_out,
        lambda exact, c_out: 0.1 * c_out * exact,
        lambda exact, c_out: -0.1 * c_out * exact,
        lambda exact, c_out: 0.1 * c_out * torch.sin(5 * exact),
    ],
    ids=["up", "down", "wider", "narrower", "wavy"],
)
def test_the_posterior_mean_has_the_lowest_loss(weight, change, schedule, normal):
    """Paired on the same draws: each change of the exact denoiser costs more than five standard errors."""
    n, u = 2000, ((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)
    x, eps, loss = 0.3 + 0.7 * normal(n, 100), normal(n, 100), Denoising(LogitNormal(), weight)
    exact = Perturbed(schedule, EDM(0.7), lambda exact, c_out: 0)
    difference = loss.at_quantile(Perturbed(schedule, EDM(0.7), change), x, {}, u, eps)
    difference -= loss.at_quantile(exact, x, {}, u, eps)
    assert difference.mean() > 5 * difference.std() / n**0.5


# --- distributions of t


@each_time
def test_quantile_is_the_inverse_of_the_closed_form_distribution(time, schedule):
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    t = time.quantile(u, schedule)
    assert (t.diff() > 0).all()
    torch.testing.assert_close(CDF[type(time)](t, schedule), u, atol=1e-9, rtol=0)


def test_log_normal_sigma_has_the_mean_and_std_of_edm(schedule):
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    log_sigma = -schedule.log_snr(LogNormalSigma(-1.2, 1.2).quantile(u, schedule)) / 2
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=1e-6)
    assert float(log_sigma.std()) == pytest.approx(1.2, abs=1e-4)
    moved = -schedule.log_snr(LogNormalSigma(0.5, 0.3).quantile(u, schedule)) / 2
    assert float(moved.mean()) == pytest.approx(0.5, abs=1e-6)
    assert float(moved.std()) == pytest.approx(0.3, abs=1e-4)


def test_logit_normal_has_its_location_and_scale():
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    logit = torch.logit(LogitNormal(0.4, 1.5).quantile(u, Linear()))
    assert float(logit.mean()) == pytest.approx(0.4, abs=1e-6)
    assert float(logit.std()) == pytest.approx(1.5, abs=1e-4)


@each_time
def test_drawn_times_follow_the_distribution(time, rng):
    schedule = Linear()  # its range of noise is not cut
    recorder = Recorder(schedule, V())
    Denoising(time, Uniform())(recorder, torch.zeros(20_000, 1), {}, rng)
    u = CDF[type(time)](recorder.t.double(), schedule)
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(recorder.x_t[:, 0].double().numpy() / recorder.t.numpy(), "norm").pvalue > 1e-3
    assert abs(stats.spearmanr(recorder.x_t[:, 0] / recorder.t, recorder.t).statistic) < 4 / 20_000**0.5


@each_time
@each_weight
@pytest.mark.parametrize("u", [0.0, 2.0**-25, 1 - 2.0**-24, 1.0])
def test_no_nan_at_the_ends_of_the_distribution(time, weight, u, schedule, monkeypatch):
    """torch.rand gives 0 and 1 - 2^-24, to which 2^-25 was once added: a u of 1, and NaN on the VP schedule."""
    monkeypatch.setattr(torch, "rand", lambda n, **_: torch.full((n,), u))
    x = torch.linspace(-1, 1, 4)[:, None]
    loss = Denoising(time, weight)(Denoiser(Wave(), schedule, V()), x, {}, torch.Generator().manual_seed(0))
    assert loss.isfinite().all()


@each_time
def test_times_never_leave_the_schedule(time, schedule):
    recorder = Recorder(schedule, V())
    u = torch.tensor([0.0, 1e-7, 1e-4, 0.5, 1 - 1e-4, 1 - 2**-24, 1.0])
    Denoising(time, Uniform()).at_quantile(recorder, torch.zeros(7, 1), {}, u, torch.zeros(7, 1))
    assert (recorder.t >= T_MIN * (1 - 1e-6)).all() and (recorder.t <= 1).all()


# --- the draw


def test_the_loss_is_a_function_of_its_generator(normal):
    denoiser, loss, x = Denoiser(Wave(), Linear(), V()), Denoising(UniformT(), Uniform()), normal(6, 1, 4, 4)
    first, again, other = (loss(denoiser, x, {}, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_one_loss_per_sample_independent_of_its_companions(normal):
    denoiser, loss = Denoiser(Wave(), VP(), V()), Denoising(LogitNormal(), MinSNR())
    x, eps, cond = normal(5, 1, 4, 4), normal(5, 1, 4, 4), {"label": normal(5)}
    together = loss.at_quantile(denoiser, x, cond, U, eps)
    assert together.shape == (5,)
    for i in range(5):
        row = slice(i, i + 1)
        alone = loss.at_quantile(denoiser, x[row], {"label": cond["label"][row]}, U[row], eps[row])
        torch.testing.assert_close(alone, together[row], rtol=1e-12, atol=0)


def test_every_loss_can_be_configured_and_checked():
    assert {type(time) for time in TIMES} == set(CDF), "add the closed form of the new p(t) to CDF"


def test_extreme_parameters_stay_finite(schedule, normal):
    """Narrow and wide log-normal noise levels that lie beyond the schedule are cut at its ends."""
    x, eps = normal(4, 3).float(), normal(4, 3).float()
    u = torch.tensor([0.0, 0.1, 0.9, 1.0])
    for mean, std in ((-20.0, 1.0), (20.0, 1.0), (0.0, 5.0)):
        loss = Denoising(LogNormalSigma(mean, std), EDMWeight())
        assert loss.at_quantile(Denoiser(Wave(), schedule, EDM()), x, {}, u, eps).isfinite().all()


def test_min_snr_never_exceeds_gamma():
    log_snr = torch.tensor([-inf, -1.0, log(5.0), 8.0, inf])
    weight = MinSNR(5.0)(log_snr, log_snr)
    torch.testing.assert_close(weight, torch.tensor([0.0, exp(-1), 5.0, 5.0, 5.0]))
