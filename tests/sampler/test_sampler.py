from copy import copy
from itertools import pairwise
from math import exp, expm1, inf, log, log2, sqrt

import pytest
import torch
from scipy import stats

from conftest import SAMPLERS
from oboro.errors import UserError
from oboro.exact import GaussianDenoiser, MixtureDenoiser
from oboro.sampler import DATA, DDIM, PNDM, Adaptive, DPMSolverPP, Heun, Node, Restart, ddim_step, node_at, nodes
from oboro.sampler.grid import Karras as Karras_grid
from oboro.sampler.grid import LogSNR, Uniform
from oboro.schedule import VE, VP, Cosine, Karras, Linear
from oboro.seeding import SampleNoise
from sampler.moments import moments

pytestmark = pytest.mark.usefixtures("global_generator_unread")

MEAN, STD = 0.3, 0.7
STEPS = [1, 2, 5]


def gaussian(schedule):
    return GaussianDenoiser(MEAN, STD, schedule)


def grid(schedule, start, end, steps):
    return nodes(schedule, torch.linspace(start, end, steps + 1, dtype=torch.float64).tolist())


def no_noise(like):
    raise AssertionError("a sampler of the ODE asked for noise")


class Counter:
    """A denoiser that counts its evaluations and keeps its times."""

    def __init__(self, denoiser):
        self.denoiser, self.schedule, self.times = denoiser, denoiser.schedule, []

    def __call__(self, x_t, t, cond):
        self.times.append(float(t[0]))
        return self.denoiser(x_t, t, cond)

    def with_variance(self, x_t, t, cond):
        self.times.append(float(t[0]))
        return self.denoiser.with_variance(x_t, t, cond)


# --- the grid


@pytest.mark.parametrize("steps", [1, 2, 5, 18])
def test_grid_starts_at_noise_and_ends_in_exact_data(schedule, steps):
    nodes_ = Uniform()(schedule, steps)
    assert len(nodes_) == steps + 1
    assert nodes_[0].t == 1
    assert nodes_[-1] == DATA == (0, 1, 0)
    assert all(s.t < t.t for t, s in pairwise(nodes_[:-1]))
    assert all(s.sigma / s.alpha < (t.sigma / t.alpha if t.alpha else inf) for t, s in pairwise(nodes_))
    widths = torch.tensor([n.t for n in nodes_[:-1]]).diff()
    torch.testing.assert_close(widths, widths[:1].expand_as(widths))


def test_grid_visits_the_last_noise_level_where_it_is_positive(schedule):
    last = Uniform()(schedule, 6)[-2]
    sigma_0 = float(schedule.sigma(torch.zeros((), dtype=torch.float64)))
    if sigma_0 > 0:
        assert last.t == 0 and last.sigma == sigma_0
    else:
        assert last.t == pytest.approx(1 / 6)


def test_grid_of_karras_is_that_of_edm():
    rho, n = 7, 18
    sigmas = [(80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho for i in range(n)] + [0]
    assert [node.sigma for node in Uniform()(Karras(), n)] == pytest.approx(sigmas, rel=1e-10)


def test_nodes_are_the_schedule_in_double_precision(schedule):
    for node in grid(schedule, 0.9, 0.1, 4):
        alpha, sigma = schedule(torch.tensor(node.t, dtype=torch.float64))
        assert (node.alpha, node.sigma) == (float(alpha), float(sigma))
        assert 2 * node.half_log_snr == pytest.approx(
            float(schedule.log_snr(torch.tensor(node.t, dtype=torch.float64)))
        )
    assert Node(1, 0, 1).half_log_snr == -inf and DATA.half_log_snr == inf


def test_no_steps_is_a_mistake_of_the_user(sampler):
    for steps in (0, -1):
        with pytest.raises(UserError, match=r"at least one step.*set sampler\.steps"):
            type(sampler)(steps=steps)


# --- laws of every sampler


@pytest.mark.parametrize("steps", STEPS)
def test_evaluations_are_as_many_as_announced(sampler, schedule, normal, noise, steps, with_steps):
    sampler, counter = with_steps(sampler, steps), Counter(gaussian(schedule))
    sampler(counter, schedule.prior(normal(2, 1)), {}, noise)
    assert len(counter.times) == sampler.evaluations(schedule)
    assert counter.times[0] == 1
    assert all(0 <= t <= 1 for t in counter.times)


def exact_denoisers(schedule):
    """A Gaussian, and a mixture of two that the sampler has to tell apart."""
    weights, means = torch.tensor([[0.3, 0.7], [-0.6, 0.5]], dtype=torch.float64)
    return GaussianDenoiser(MEAN, STD, schedule), MixtureDenoiser(weights, means, 0.3, schedule)


def well_begun(schedule, steps):
    """Equal steps in t from 0.95 to 0.05 after three short ones, of error h⁵ each where a method gains an order a step.

    A multistep method begins with fewer values than it has places for, at a lower order; here that costs nothing.
    """
    h, times = 0.9 / steps, [0.95]
    for order in (1, 2, 3):
        times.append(times[-1] - h ** (5 / (order + 1)))
    rest = torch.linspace(times[-1], 0.05, steps + 1, dtype=torch.float64)[1:]
    return nodes(schedule, [*times, *rest.tolist()])


@pytest.mark.parametrize("data", [0, 1], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("schedule", [Linear(), VP(), Karras()], ids=["linear", "vp", "karras"])
def test_order_of_convergence_is_as_declared(ode_sampler, schedule, data):
    """Between t = 0.95 and 0.05, against the exact probability flow."""
    denoiser = exact_denoisers(schedule)[data]
    t, s = (torch.full((3,), v, dtype=torch.float64) for v in (0.95, 0.05))
    x = torch.tensor([[-1.3], [0.4], [2.0]], dtype=torch.float64) * schedule.sigma(t[:1])
    exact = denoiser.flow(x, t, s)
    coarse, fine = (
        float((ode_sampler.solve(denoiser, x, well_begun(schedule, steps), {}, no_noise) - exact).abs().max())
        for steps in (160, 320)
    )
    order = ode_sampler.order
    assert log2(coarse / fine) == pytest.approx(order, abs=0.32)


def error_of_whole_run(sampler, schedule):
    """Distance of a run from t = 1 to t = 0 from its limit: to data, or to the last noise level where there is one."""
    denoiser, grid_ = gaussian(schedule), sampler.nodes(schedule)
    x_T = schedule.prior(torch.tensor([[-1.3], [0.4], [2.0]], dtype=torch.float64))
    one, zero = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    out = sampler.solve(denoiser, x_T, grid_[:-1] if grid_[-2].t == 0 else grid_, {}, no_noise)
    return float((out - denoiser.flow(x_T, one, zero)).abs().max())


def narrowed(schedule, steps):
    """By which share the last step, from t = 1/steps into data, narrows a Gaussian: it gives means, not draws."""
    t = torch.tensor(1 / steps, dtype=torch.float64)
    return 1 - 1 / float(1 + (schedule.sigma(t) / schedule.alpha(t) / STD) ** 2) ** 0.5


def test_a_whole_run_converges_to_the_exact_flow(ode_sampler, schedule, with_steps):
    """With the declared order where the noise ends above zero. Elsewhere the last step into data may cost some."""
    errors = [error_of_whole_run(with_steps(ode_sampler, steps), schedule) for steps in (40, 160, 320)]
    order, least, last = ode_sampler.order, log2(narrowed(schedule, 40) / narrowed(schedule, 320)) / 3, 0.0
    if schedule.sigma(torch.zeros(())) > 0:
        begun = min(order, 2)  # a first step of first order leaves an error of h², however small
        assert log2(errors[1] / errors[2]) > begun - 0.15
    else:
        # x is up to two standard deviations off the mean, and the steps before are no better than the last one.
        last = 2 * 2 * STD * narrowed(schedule, 320)
    # First order, unless noise leaves more slowly or the error is that of the last step from the beginning.
    assert log2(errors[0] / errors[2]) / 3 > 0.85 * min(1, least) or errors[2] < last
    assert errors[2] < (0.02 if order == 1 else 1e-3) + last


def test_only_the_ratio_of_noise_to_signal_matters(ode_sampler, schedules, normal):
    """Nodes of equal log-SNR give equal x / alpha on every schedule. Only PNDM puts nodes of its own halfway in t."""
    if isinstance(ode_sampler, PNDM):
        return
    z = normal(4, 3)
    log_snr = torch.linspace(-6, 4, 8, dtype=torch.float64)
    results = []
    for schedule in schedules.values():
        nodes_ = nodes(schedule, schedule.t_from_log_snr(log_snr).tolist())
        x = ode_sampler.solve(gaussian(schedule), nodes_[0].alpha * z, nodes_, {}, no_noise)
        results.append(x / nodes_[-1].alpha)
    for x in results[1:]:
        torch.testing.assert_close(x, results[0], rtol=1e-9, atol=1e-9)


def test_a_certain_denoiser_is_obeyed_at_once(sampler, schedule, normal, noise, with_steps):
    """Where D does not depend on x_t, every number of steps ends in D."""
    target = normal(3, 2)

    class Certain:
        def __init__(self, schedule):
            self.schedule = schedule

        def __call__(self, x_t, t, cond):
            return target

        def with_variance(self, x_t, t, cond):
            return target, torch.zeros_like(x_t)

    for steps in (1, 2, 7):
        out = with_steps(sampler, steps)(Certain(schedule), schedule.prior(normal(3, 2)), {}, noise)
        # The stages of PNDM start over from x_T and lose the digits by which it is larger than the data.
        close = 1e-8 if isinstance(sampler, PNDM) else 1e-12
        torch.testing.assert_close(out, target, rtol=close, atol=close)


def test_one_step_returns_the_denoised_noise(sampler, schedule, normal, with_steps):
    x_T, denoiser = schedule.prior(normal(3, 2)), gaussian(schedule)
    out = with_steps(sampler, 1)(denoiser, x_T, {}, no_noise)
    torch.testing.assert_close(out, denoiser(x_T, torch.ones(3, dtype=torch.float64), {}), rtol=1e-12, atol=1e-12)


def test_samples_do_not_depend_on_their_companions(sampler, schedule, with_steps):
    sampler, denoiser = with_steps(sampler, 5), gaussian(schedule)

    def run(ids):
        noise = SampleNoise(0, ids)
        x_T = schedule.prior(noise(torch.empty(len(ids), 1, 4, 4)))
        return sampler(denoiser, x_T, {}, noise)

    together = run([3, 1, 4, 15])
    assert torch.equal(run([4, 3]), together[[2, 0]])


def test_the_condition_reaches_the_denoiser(sampler, normal, noise, with_steps):
    seen, cond = [], {"label": torch.arange(2)}

    class Listening:
        schedule = Linear()

        def __call__(self, x_t, t, cond):
            seen.append(cond)
            return 0 * x_t

        def with_variance(self, x_t, t, cond):
            return self(x_t, t, cond), 0 * x_t

    with_steps(sampler, 3)(Listening(), normal(2, 1), cond, noise)
    assert all(c is cond for c in seen) and len(seen) >= 3


def test_noise_is_drawn_where_it_is_announced(sampler, normal, noise, with_steps):
    """``stochastic`` is what other parts decide by; an ODE solver must not touch the noise."""
    sampler, calls, schedule = with_steps(sampler, 40), [], Linear()

    class Noted:
        def __call__(self, like):
            calls.append(like)
            return noise(like)

        between = staticmethod(lambda like, a, b: calls.append(like) or noise(like))

    sampler(gaussian(schedule), schedule.prior(normal(2, 1)), {}, Noted())
    assert bool(calls) == sampler.stochastic


@pytest.mark.parametrize("schedule", [Linear(), VP(), VE()], ids=["linear", "vp", "ve"])
def test_moments_converge_with_the_declared_order(sde_sampler, schedule, with_steps):
    """Mean and variance of x̂0, known without a draw for Gaussian data."""
    sampler = copy(sde_sampler)
    sampler.grid = LogSNR(-7.8, 10)
    if hasattr(sampler, "churn"):
        sampler.noise_std = 1.0  # more than 1 is a bias, and meant to be one
    means, variances = zip(
        *(moments(with_steps(sampler, n), schedule, MEAN, STD) for n in (100, 200, 400)), strict=True
    )
    # Of the limit there is missing: the signal at the first node, and the noise that the last step removes.
    assert means[2] == pytest.approx(MEAN, abs=1e-3)
    assert variances[2] == pytest.approx(STD**2, rel=0.04 if sampler.order == 1 else 2e-3)
    slope = log2(abs(variances[0] - variances[1]) / abs(variances[1] - variances[2]))
    assert slope == pytest.approx(sampler.order, abs=0.32)


def test_samples_of_a_mixture_have_its_distribution(sde_sampler, rng, normal, noise, with_steps):
    """Kolmogorov-Smirnov against the exact distribution, and closer with more steps."""
    schedule, n = Linear(), 4000
    denoiser = exact_denoisers(schedule)[1]

    def distance(steps):
        out = with_steps(sde_sampler, steps)(denoiser, schedule.prior(normal(n, 1)), {}, noise)[:, 0]
        return float(
            stats.kstest(
                out.numpy(), lambda v: 0.3 * stats.norm.cdf(v, -0.6, 0.3) + 0.7 * stats.norm.cdf(v, 0.5, 0.3)
            ).statistic
        )

    few, many = distance(4), distance(200)
    assert many < 1.95 / n**0.5 + 0.01  # the 0.1 % point, and what 200 steps leave
    assert many < few


# --- DDIM


def test_ddim_on_the_linear_schedule_is_eulers_method_for_the_velocity(normal):
    schedule, x = Linear(), normal(5, 2)
    denoiser, nodes_ = gaussian(schedule), grid(Linear(), 1.0, 0.1, 9)
    expected = x
    for t, s in pairwise(nodes_):
        velocity = (expected - denoiser(expected, torch.full((5,), t.t, dtype=torch.float64), {})) / t.t
        expected = expected + (s.t - t.t) * velocity
    torch.testing.assert_close(DDIM(eta=0.0).solve(denoiser, x, nodes_, {}, no_noise), expected)


def test_ddim_is_eulers_method_in_noise_over_signal(schedule, normal):
    """d(x/alpha) = eps d(sigma/alpha) with eps held over the step (arXiv:2010.02502, eq. 14)."""
    x, denoiser = normal(5, 2), gaussian(schedule)
    t, s = nodes(schedule, [0.8, 0.7])
    eps = (x - t.alpha * denoiser(x, torch.full((5,), 0.8, dtype=torch.float64), {})) / t.sigma
    expected = s.alpha * (x / t.alpha + (s.sigma / s.alpha - t.sigma / t.alpha) * eps)
    torch.testing.assert_close(DDIM(eta=0.0).solve(denoiser, x, [t, s], {}, no_noise), expected)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_is_the_posterior_of_ddpm(eta, normal):
    """Mean and variance of q(x_s | x_t, x0) from betas (arXiv:2006.11239, eq. 7); eta² times that variance."""
    x, denoiser = normal(5, 2), gaussian(VP())
    abar_t, abar_s = (float(VP().alpha(torch.tensor(v, dtype=torch.float64))) ** 2 for v in (0.6, 0.58))
    beta = 1 - abar_t / abar_s
    variance = beta * (1 - abar_s) / (1 - abar_t)
    x0 = denoiser(x, torch.full((5,), 0.6, dtype=torch.float64), {})

    def step(z):
        return DDIM(eta=eta).solve(denoiser, x, nodes(VP(), [0.6, 0.58]), {}, lambda like: torch.full_like(like, z))

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
    x0 = denoiser(x, torch.full((5,), 0.8, dtype=torch.float64), {})
    out = DDIM(eta=1e6).solve(denoiser, x, [t, s], {}, lambda like: z)
    torch.testing.assert_close(out, s.alpha * x0 + s.sigma * z)


def test_the_step_keeps_the_noise_that_the_denoised_image_implies(schedule, normal):
    x0, eps = normal(5, 2), normal(5, 2)
    t, s = nodes(schedule, [0.9, 0.4])
    moved = ddim_step(t.alpha * x0 + t.sigma * eps, x0, t, s)
    torch.testing.assert_close(moved, s.alpha * x0 + s.sigma * eps, rtol=1e-10, atol=1e-10)


# --- Heun


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
    torch.testing.assert_close(Heun(n)(denoiser, x_T, {}, no_noise), x, rtol=1e-9, atol=1e-9)


def test_heun_evaluates_35_times_in_18_steps_of_edm():
    assert Heun(18).evaluations(Karras()) == 35  # arXiv:2206.00364, table 2: NFE 35 on CIFAR-10


# --- DPM-Solver++


def test_dpm_solver_pp_is_algorithm_2_of_its_paper(schedule, normal):
    """arXiv:2211.01095, algorithm 2, with the paper's r_i = h_{i-1} / h_i; data is denoised in a last Euler step."""
    x, denoiser, nodes_ = normal(5, 2), gaussian(schedule), grid(schedule, 0.9, 0.2, 6)
    lam = [log(n.alpha / n.sigma) for n in nodes_]
    h = [None, *(b - a for a, b in pairwise(lam))]

    def model(x, node):
        return denoiser(x, torch.full((5,), node.t, dtype=torch.float64), {})

    q = [model(x, nodes_[0])]
    expected = nodes_[1].sigma / nodes_[0].sigma * x - nodes_[1].alpha * (exp(-h[1]) - 1) * q[0]
    for i in range(2, 7):
        q.append(model(expected, nodes_[i - 1]))
        r = h[i - 1] / h[i]
        D = (1 + 1 / (2 * r)) * q[i - 1] - 1 / (2 * r) * q[i - 2]
        expected = nodes_[i].sigma / nodes_[i - 1].sigma * expected - nodes_[i].alpha * (exp(-h[i]) - 1) * D
    out = DPMSolverPP(6).solve(denoiser, x, nodes_, {}, no_noise)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


def test_dpm_solver_pp_takes_the_first_step_as_the_exponential_integrator(schedule, normal):
    """Exact where D is constant over the step, which makes it DDIM."""
    x, denoiser = normal(5, 2), gaussian(schedule)
    pair = nodes(schedule, [0.8, 0.6])
    ours, ddim = (s.solve(denoiser, x, pair, {}, no_noise) for s in (DPMSolverPP(1), DDIM(1, eta=0.0)))
    torch.testing.assert_close(ours, ddim, rtol=1e-10, atol=1e-10)


def test_dpm_solver_pp_extrapolates_a_denoiser_linear_in_log_snr(normal):
    """For D(lambda) = c lambda the scheme holds D at the middle of the step: known for even steps in lambda."""
    schedule, h = Cosine(), 0.5
    t = schedule.t_from_log_snr(2 * torch.tensor([-1.0, -0.5, 0.0], dtype=torch.float64)).tolist()

    class LinearInLambda:
        def __call__(self, x_t, t, cond):
            return (schedule.log_snr(t) / 2)[:, None].expand_as(x_t)

    grid_ = nodes(schedule, t)
    x = normal(5, 2)
    first = grid_[1].sigma / grid_[0].sigma * x - grid_[1].alpha * expm1(-h) * -1.0
    expected = grid_[2].sigma / grid_[1].sigma * first - grid_[2].alpha * expm1(-h) * -0.25
    torch.testing.assert_close(DPMSolverPP(2).solve(LinearInLambda(), x, grid_, {}, no_noise), expected)


# --- stochastic differential equations


@pytest.mark.parametrize("name", ["dpm_solver_pp_sde", "dpm_solver_pp_2s_sde", "dpm_solver_pp_3m_sde"])
def test_more_steps_of_an_sde_end_in_the_same_image(name):
    """One Brownian path whatever the steps: the samples themselves converge, not only their distribution."""
    schedule = VP()
    denoiser = gaussian(schedule)

    def run(steps):
        sampler, noise = copy(SAMPLERS[name]), SampleNoise(0, [0])
        sampler.steps, sampler.grid = steps, LogSNR(-8, 8)
        return sampler(denoiser, schedule.prior(noise(torch.empty(1, 200, dtype=torch.float64))), {}, noise)

    coarse, middle, fine = run(20), run(80), run(320)
    assert (coarse - fine).std() < 0.25 * fine.std() and (middle - fine).std() < 0.6 * (coarse - fine).std()


def test_churn_adds_the_noise_of_algorithm_2(normal):
    """arXiv:2206.00364, algorithm 2, lines 4 to 11, in sigma alone."""
    low, high, churn, noise_std, n = 0.05, 50.0, 3.0, 1.01, 6
    denoiser, schedule, x, draws = gaussian(Karras()), Karras(), 80 * normal(5, 2), normal(6, 5, 2)
    grid_, used = Uniform()(schedule, n), iter(draws)
    sampler = Heun(n, churn, low, high, noise_std)
    ours = sampler.solve(denoiser, x, grid_, {}, lambda like: next(used))
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


# --- Restart


def test_restart_without_repeats_is_heun(schedule, normal):
    x, denoiser = schedule.prior(normal(3, 2)), gaussian(schedule)
    assert torch.equal(Restart(9, repeats=0)(denoiser, x, {}, no_noise), Heun(9)(denoiser, x, {}, no_noise))


def test_restart_contracts_an_error_made_on_the_way():
    """From noise 30 % too wide: a way back and down leaves of it what the data share in the noise it goes back to."""
    schedule = Karras()

    def std(repeats):
        impulse = moments(Wide(Restart(60, repeats, 30, 0.05, 5.0, Karras_grid(0.002, 80.0))), schedule, MEAN, STD)
        return impulse[1] ** 0.5

    before, once, twice = (abs(std(k) / STD - 1) for k in (0, 1, 2))
    assert before > 0.25 and once < 0.05 * before and twice < once


class Wide:
    """A sampler that starts from 1.3 times the noise."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __call__(self, denoiser, x_T, cond, noise):
        return self.sampler(denoiser, 1.3 * x_T, cond, noise)


# --- adaptive steps


@pytest.mark.parametrize("schedule", [Linear(), VP(), Karras()], ids=["linear", "vp", "karras"])
def test_a_smaller_tolerance_is_more_exact_and_dearer(schedule):
    denoiser = exact_denoisers(schedule)[1]
    x = schedule.prior(torch.tensor([[-1.3], [0.4], [2.0]], dtype=torch.float64))
    ends = [node_at(schedule, v).t for v in (-5.0, 5.0)]
    t, s = (torch.full((3,), v, dtype=torch.float64) for v in ends)
    start = x * float(schedule.sigma(t[:1]) / schedule.sigma(torch.ones(1, dtype=torch.float64)))
    exact = denoiser(denoiser.flow(start, t, s), s, {})
    errors, costs = [], []
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
        counter = Counter(denoiser)
        sampler = Adaptive(2000, rtol=tolerance, atol=tolerance / 10)
        out = sampler.solve(counter, start, [*nodes(schedule, ends), DATA], {}, no_noise)
        errors.append(float((out - exact).abs().max()))
        costs.append(len(counter.times))
        assert costs[-1] <= sampler.evaluations(schedule)
    assert all(b < 0.8 * a for a, b in pairwise(errors)) and errors[-1] < 0.05 * errors[0]
    # Of second order: a hundredth of the tolerance takes about ten times the steps, since E is first against second.
    assert all(a < b < 12 * a for a, b in pairwise(costs))


def test_adaptive_steps_do_not_depend_on_companions(schedule):
    denoiser = exact_denoisers(schedule)[1]
    x = schedule.prior(SampleNoise(0, range(6))(torch.empty(6, 1, 4, 4)))
    together = Adaptive()(denoiser, x, {}, no_noise)
    assert torch.equal(Adaptive()(denoiser, x[2:4], {}, no_noise), together[2:4])


def test_too_few_trials_are_said():
    with pytest.raises(UserError, match=r"3 trials.*raise sampler\.steps or a tolerance"):
        Adaptive(3)(gaussian(Linear()), torch.ones(1, 1), {}, no_noise)
