from math import exp, inf, log, log1p

import pytest
import torch
from torch.nn.functional import softplus

from cases import over
from loss.toys import TIMES, WEIGHTS, OffBy, Perturbed, U, Wave, by_hand, level, loss_of, midpoints
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss import weighting
from oboro.loss.time import T_MIN, LogitNormal, LogNormal
from oboro.parameterization import EDM, V
from oboro.schedule import Karras, Laplace, Linear, expand_as

pytestmark = pytest.mark.usefixtures("global_generator_unread")

each_weight = pytest.mark.parametrize("name", WEIGHTS)


def snr(schedule):
    alpha, sigma = schedule(U)
    return (alpha / sigma) ** 2


def eps_error(denoiser, x, eps):
    """|eps̃ - eps|² a sample, and the loss of the same denoiser under a weight."""
    x_t, output, _, c = by_hand(denoiser, x, Condition(), U, eps)
    alpha, sigma = (expand_as(v, x) for v in denoiser.schedule(U))
    predicted = (x_t - alpha * (c.c_skip * x_t + c.c_out * output)) / sigma
    return ((predicted - eps) ** 2).flatten(1).mean(1)


# --- closed forms


def test_snr_weight_is_mse_on_the_noise(schedule, parameterizations, normal):
    for parameterization in (p for name, p in parameterizations.items() if name != "eps"):
        denoiser, x, eps = Denoiser(Wave(), schedule, parameterization), normal(5, 1, 4, 4), normal(5, 1, 4, 4)
        loss = loss_of(weight=weighting.SNR()).at_quantile(denoiser, x, Condition(), U, eps)
        torch.testing.assert_close(loss, eps_error(denoiser, x, eps), rtol=1e-8, atol=1e-12)


@over(power=[(1.0, 1.0), (0.5, 2.0), (3.0, 0.0)])
def test_p2_weight_divides_the_error_of_the_noise_by_a_power_of_k_plus_snr(schedule, power, normal):
    k, gamma = power
    denoiser, x, eps = Denoiser(Wave(), schedule, V()), normal(5, 1, 4, 4), normal(5, 1, 4, 4)
    loss = loss_of(weight=weighting.P2(k, gamma)).at_quantile(denoiser, x, Condition(), U, eps)
    torch.testing.assert_close(loss, eps_error(denoiser, x, eps) / (k + snr(schedule)) ** gamma, rtol=1e-8, atol=1e-12)


def test_soft_min_snr_is_half_the_harmonic_mean_of_snr_and_gamma(schedule):
    weight = weighting.SoftMinSNR(3.0)(level(schedule))
    torch.testing.assert_close(weight, snr(schedule) * 3 / (snr(schedule) + 3), rtol=1e-10, atol=0)


def test_soft_min_snr_written_in_noise_levels():
    """1 / (sigma² + sigma_data²) with gamma = 1 / sigma_data²."""
    expected = 1 / (Karras().sigma(U) ** 2 + 0.25)
    torch.testing.assert_close(weighting.SoftMinSNR(4.0)(level(Karras())), expected, rtol=1e-12, atol=0)


@over(sigma_data=[0.5, 1.0])
def test_edm_weight_is_the_inverse_square_of_its_c_out(schedule, sigma_data):
    c_out = EDM(sigma_data)(*schedule(U)).c_out
    torch.testing.assert_close(weighting.EDM(sigma_data)(level(schedule)), c_out**-2, rtol=1e-10, atol=0)


def test_edm_weight_written_out():
    """lambda(sigma) = (sigma² + sigma_data²) / (sigma sigma_data)² (arXiv:2206.00364, table 1)."""
    sigma = Karras().sigma(U)
    expected = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(weighting.EDM(0.5)(level(Karras())), expected, rtol=1e-12, atol=0)


def test_trig_flow_weight_on_the_target_of_trig_flow():
    """1 / sigma̅ on F, whose error is that of D over sigma_data sin(theta), tan(theta) = sigma̅ / sigma_data."""
    sigma = Karras().sigma(U)
    of_f = weighting.TrigFlow(0.5)(level(Karras())) * (0.5 * torch.sin(torch.atan(sigma / 0.5))) ** 2
    torch.testing.assert_close(of_f, 1 / sigma, rtol=1e-10, atol=0)


def test_min_snr_weight_is_the_smaller_of_snr_and_gamma(schedule):
    weight = weighting.MinSNR(5.0)(level(schedule))
    torch.testing.assert_close(weight, snr(schedule).clamp(max=5), rtol=1e-10, atol=0)
    assert weight[0] == pytest.approx(5, rel=1e-12) and weight[-1] < 5


def test_min_snr_never_exceeds_gamma():
    at = level(Linear())
    at.log_snr = torch.tensor([-inf, -1.0, log(5.0), 8.0, inf])
    torch.testing.assert_close(weighting.MinSNR(5.0)(at), torch.tensor([0.0, exp(-1), 5.0, 5.0, 5.0]))


# --- weights on the likelihood bound do not depend on p(t)

COVERING = {"uniform": TIMES["uniform"], "logit_normal": LogitNormal(0.0, 2.0), "log_normal": LogNormal(1.0, 2.5)}


@pytest.mark.parametrize("p_t", COVERING)
def test_elbo_of_the_exact_denoiser_is_the_information_about_the_data(p_t):
    """For x ~ N(0, s²) in nats: (log(1 + s² SNR_0) - log(1 + s² SNR_1)) / 2, the mutual information of x and x_t
    (Guo, Shamai and Verdú 2005, arXiv:cs/0412108, eq. 1), with the minimum mean squared error s² / (1 + s² SNR)."""
    u, s2 = midpoints(200_000), 0.49
    x = torch.zeros(len(u), 1, dtype=torch.float64)
    exact = OffBy(Karras(), lambda log_snr: s2 / (1 + s2 * log_snr.exp()))
    loss = loss_of(COVERING[p_t], weighting.ELBO()).at_quantile(exact, x, Condition(), u, x).mean()
    expected = (log1p(s2 / 0.002**2) - log1p(s2 / 80**2)) / 2
    assert float(loss) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("bias", [-2.0, 0.0, 3.0])
@pytest.mark.parametrize("p_t", COVERING)
def test_sigmoid_loss_of_unit_noise_error_is_an_integral_of_the_sigmoid(p_t, bias):
    """1/2 of the integral of sigmoid(bias - l) over log-SNR l is a difference of two softplus."""
    u = midpoints(200_000)
    x = torch.zeros(len(u), 1, dtype=torch.float64)
    blind = OffBy(Karras(), lambda log_snr: (-log_snr).exp())
    loss = loss_of(COVERING[p_t], weighting.Sigmoid(bias)).at_quantile(blind, x, Condition(), u, x).mean()
    low, high = Karras().log_snr(torch.tensor([1.0, T_MIN], dtype=torch.float64))
    expected = (softplus(bias - low) - softplus(bias - high)) / 2
    assert float(loss) == pytest.approx(float(expected), rel=2e-3)


# --- the learned log-variance


def test_learned_log_variance_has_its_optimum_at_the_log_of_the_mean_loss(normal):
    """For a fixed denoiser u = log E[w |D - x|² | log_snr], not the mean of the log, which is 0.58 less here."""
    n = 4096
    size = lambda log_snr: 1 + log_snr.exp()  # noqa: E731
    weight = weighting.LearnedLogVariance(weighting.MinSNR(5.0)).double()
    p_t, x = LogNormal(0.0, 1.2), normal(n, 2)
    loss, denoiser = loss_of(p_t, weight), OffBy(Karras(), size)
    seen = level(Karras(), p_t=p_t, u=midpoints(n))
    weighted = loss.at_quantile(denoiser, x, Condition(), midpoints(n), normal(n, 2))
    optimizer = torch.optim.LBFGS(weight.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        objective = weight.objective(seen, weighted)[0].mean()
        objective.backward()
        return objective

    optimizer.step(closure)
    at = level(Karras(), p_t=p_t, u=torch.linspace(0.05, 0.95, 19, dtype=torch.float64))
    expected = (at.log_snr.exp().clamp(max=5) * (size(at.log_snr) + 1)).log()
    assert (weight.log_variance(at) - expected).abs().max() < 0.2
    assert (weight.log_variance(at) - expected).mean().abs() < 0.05


def test_learned_log_variance_starts_as_its_base_and_reports_it_for_ever(schedule, normal):
    weight, base = weighting.LearnedLogVariance(weighting.SNR()), weighting.SNR()
    denoiser, x, eps = Denoiser(Wave(), schedule, V()), normal(5, 3), normal(5, 3)
    draw = lambda w: loss_of(weight=w)(denoiser, x, Condition(), torch.Generator().manual_seed(0))  # noqa: E731
    torch.testing.assert_close(draw(weight), draw(base), rtol=0, atol=0)
    with torch.no_grad():
        weight.head.normal_(generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(draw(weight), draw(base))
    frozen = [loss_of(weight=w).at_quantile(denoiser, x, Condition(), U, eps) for w in (weight, base)]
    assert torch.equal(*frozen)


def test_learned_log_variance_makes_every_noise_level_pull_alike():
    """At the optimum the part that trains the denoiser is 1 on average, whatever the loss was."""
    weight, at = weighting.LearnedLogVariance(weighting.Uniform()), level(Linear())
    weight.log_variance = lambda level: torch.log(torch.arange(1.0, 6))
    objective, denoising = weight.objective(at, torch.arange(1.0, 6))
    torch.testing.assert_close(denoising, torch.ones(5))
    torch.testing.assert_close(objective, 1 + torch.log(torch.arange(1.0, 6)))


# --- laws of every weight


@over(weight=WEIGHTS, p_t=TIMES)
def test_weights_are_finite_and_not_negative_over_the_whole_schedule(weight, p_t, schedule):
    u = torch.linspace(0, 1, 1001)
    w = weight(level(schedule, p_t=p_t, u=u))
    assert w.isfinite().all() and (w >= 0).all() and w.dtype == u.dtype


CHANGES = {
    "up": lambda exact, c_out: 0.1 * c_out,
    "down": lambda exact, c_out: -0.1 * c_out,
    "wider": lambda exact, c_out: 0.1 * c_out * exact,
    "narrower": lambda exact, c_out: -0.1 * c_out * exact,
    "wavy": lambda exact, c_out: 0.1 * c_out * torch.sin(5 * exact),
}


@pytest.mark.slow
@each_weight
def test_the_posterior_mean_has_the_lowest_loss(name, schedule, normal):
    """Paired on the same draws: each change of the exact denoiser costs more than five standard errors."""
    n = 32000 if isinstance(schedule, Laplace) else 2000  # it has few levels where a change of D costs much
    # the bound has all log-SNRs alike, sCM's weight grows without end with them, others have the middle of t
    p_t = {"elbo": LogNormal(0.0, 6.0)}.get(name, LogNormal(0.0, 1.0) if "trig_flow" in name else LogitNormal())
    x, eps, loss = 0.3 + 0.7 * normal(n, 100), normal(n, 100), loss_of(p_t, WEIGHTS[name])
    exact = Perturbed(schedule, EDM(0.7), lambda exact, c_out: 0)
    lowest = loss.at_quantile(exact, x, Condition(), midpoints(n), eps)
    for how, change in CHANGES.items():
        changed = Perturbed(schedule, EDM(0.7), change)
        difference = loss.at_quantile(changed, x, Condition(), midpoints(n), eps) - lowest
        assert difference.mean() > 5 * difference.std() / n**0.5, how
