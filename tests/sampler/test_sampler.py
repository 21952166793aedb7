from copy import copy
from itertools import pairwise
from math import inf, log2

import pytest
import torch
from scipy import stats

from cases import over
from conftest import ODE_SAMPLERS, SCHEDULES
from oboro.base.errors import UserError
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition, Label
from oboro.sampler import DATA, DDIM, PNDM, Node, nodes
from oboro.sampler.grid import LogSNR, Times, Uniform
from oboro.schedule import VE, VP, Karras, Linear, expand_as
from sampler.moments import moments
from sampler.toys import MEAN, STD, Counter, exact_denoisers, gaussian, grid, no_noise

pytestmark = pytest.mark.usefixtures("global_generator_unread")

each_schedule = over(schedule=SCHEDULES)


# --- the grid


@over(steps=[1, 2, 5, 18])
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


@over(schedule=SCHEDULES, steps=[1, 2, 5])
def test_evaluations_are_as_many_as_announced(sampler, schedule, normal, noise, steps, with_steps):
    sampler, counter = with_steps(sampler, steps), Counter(gaussian(schedule))
    sampler(counter, schedule.prior(normal(2, 1)), Condition(), noise)
    assert len(counter.times) == sampler.evaluations(schedule)
    assert counter.times[0] == 1
    assert all(0 <= t <= 1 for t in counter.times)


def well_begun(schedule, steps):
    """Equal steps in t from 0.95 to 0.05 after three short ones, of error h⁵ each where a method gains an order a step.

    A multistep method begins with fewer values than it has places for, at a lower order; here that costs nothing.
    """
    h, times = 0.9 / steps, [0.95]
    for order in (1, 2, 3):
        times.append(times[-1] - h ** (5 / (order + 1)))
    rest = torch.linspace(times[-1], 0.05, steps + 1, dtype=torch.float64)[1:]
    return nodes(schedule, [*times, *rest.tolist()])


@pytest.mark.slow
@over(data={"gaussian": 0, "mixture": 1}, schedule={"linear": Linear(), "vp": VP(), "karras": Karras()})
def test_order_of_convergence_is_as_declared(ode_sampler, schedule, data):
    """Between t = 0.95 and 0.05, against the exact probability flow."""
    denoiser = exact_denoisers(schedule)[data]
    t, s = (torch.full((3,), v, dtype=torch.float64) for v in (0.95, 0.05))
    x = torch.tensor([[-1.3], [0.4], [2.0]], dtype=torch.float64) * schedule.sigma(t[:1])
    exact = denoiser.flow(x, t, s)
    coarse, fine = (
        float((ode_sampler.solve(denoiser, x, well_begun(schedule, steps), Condition(), no_noise) - exact).abs().max())
        for steps in (160, 320)
    )
    order = ode_sampler.order
    assert log2(coarse / fine) == pytest.approx(order, abs=0.32)


def error_of_whole_run(sampler, schedule):
    """Distance of a run from t = 1 to t = 0 from its limit: to data, or to the last noise level where there is one."""
    denoiser, grid_ = gaussian(schedule), sampler.nodes(schedule)
    x_T = schedule.prior(torch.tensor([[-1.3], [0.4], [2.0]], dtype=torch.float64))
    one, zero = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    out = sampler.solve(denoiser, x_T, grid_[:-1] if grid_[-2].t == 0 else grid_, Condition(), no_noise)
    return float((out - denoiser.flow(x_T, one, zero)).abs().max())


def narrowed(schedule, steps):
    """By which share the last step, from t = 1/steps into data, narrows a Gaussian: it gives means, not draws."""
    t = torch.tensor(1 / steps, dtype=torch.float64)
    return 1 - 1 / float(1 + (schedule.sigma(t) / schedule.alpha(t) / STD) ** 2) ** 0.5


@pytest.mark.slow
@each_schedule
def test_a_whole_run_converges_to_the_exact_flow(ode_sampler, schedule, with_steps):
    """With the declared order where the noise ends above zero. Elsewhere the last step into data may cost some."""
    coarse, fine = (error_of_whole_run(with_steps(ode_sampler, steps), schedule) for steps in (40, 160))
    order, least, last = ode_sampler.order, log2(narrowed(schedule, 40) / narrowed(schedule, 160)) / 2, 0.0
    if schedule.sigma(torch.zeros(())) > 0:
        begun = min(order, 2)  # a first step of first order leaves an error of h², however small
        assert log2(error_of_whole_run(with_steps(ode_sampler, 80), schedule) / fine) > begun - 0.2
    else:
        # x is up to two standard deviations off the mean, and the steps before are no better than the last one.
        last = 2 * 2 * STD * narrowed(schedule, 160)
    # First order, unless noise leaves more slowly or the error is that of the last step from the beginning.
    assert log2(coarse / fine) / 2 > 0.85 * min(1, least) or fine < last
    assert fine < (0.04 if order == 1 else 8e-3) + last


@pytest.mark.slow
@over(sampler=ODE_SAMPLERS, where=lambda sampler: not isinstance(sampler, PNDM))
def test_only_the_ratio_of_noise_to_signal_matters(sampler, schedules, normal):
    """Nodes of equal log-SNR give equal x / alpha on every schedule. Only PNDM puts nodes of its own halfway in t."""
    z = normal(4, 3)
    log_snr = torch.linspace(-6, 4, 8, dtype=torch.float64)
    results = []
    for schedule in schedules.values():
        nodes_ = nodes(schedule, schedule.t_from_log_snr(log_snr).tolist())
        x = sampler.solve(gaussian(schedule), nodes_[0].alpha * z, nodes_, Condition(), no_noise)
        results.append(x / nodes_[-1].alpha)
    for x in results[1:]:
        torch.testing.assert_close(x, results[0], rtol=1e-9, atol=1e-9)


@each_schedule
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

        def towards(self, alpha, sigma):
            return self

    for steps in (1, 2, 7):
        out = with_steps(sampler, steps)(Certain(schedule), schedule.prior(normal(3, 2)), Condition(), noise)
        # The stages of PNDM start over from x_T and lose the digits by which it is larger than the data.
        close = 1e-8 if isinstance(sampler, PNDM) else 1e-12
        torch.testing.assert_close(out, target, rtol=close, atol=close)


@each_schedule
def test_one_step_returns_the_denoised_noise(sampler, schedule, normal, with_steps):
    x_T, denoiser = schedule.prior(normal(3, 2)), gaussian(schedule)
    out = with_steps(sampler, 1)(denoiser, x_T, Condition(), no_noise)
    torch.testing.assert_close(
        out, denoiser(x_T, torch.ones(3, dtype=torch.float64), Condition()), rtol=1e-12, atol=1e-12
    )


@each_schedule
def test_a_grid_that_begins_later_starts_from_less_noise(schedule, normal):
    """x_T at t = 1 is scaled to sigma of the first node: one step is the denoised rest of it."""
    z, half = normal(3, 2), torch.full((3,), 0.5, dtype=torch.float64)
    out = DDIM(1, grid=Times([0.5, 0.1]))(gaussian(schedule), schedule.prior(z), Condition(), no_noise)
    expected = gaussian(schedule)(expand_as(schedule.sigma(half), z) * z, half, Condition())
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@each_schedule
def test_samples_do_not_depend_on_their_companions(sampler, schedule, with_steps):
    sampler, denoiser = with_steps(sampler, 5), gaussian(schedule)

    def run(ids):
        noise = SampleNoise(0, ids)
        x_T = schedule.prior(noise(torch.empty(len(ids), 1, 4, 4)))
        return sampler(denoiser, x_T, Condition(), noise)

    together = run([3, 1, 4, 15])
    assert torch.equal(run([4, 3]), together[[2, 0]])


def test_the_condition_reaches_the_denoiser(sampler, normal, noise, with_steps):
    seen, cond = [], Condition.of(label=Label(torch.arange(2)))

    class Listening:
        schedule = Linear()

        def __call__(self, x_t, t, cond):
            seen.append(cond)
            return 0 * x_t

        def with_variance(self, x_t, t, cond):
            return self(x_t, t, cond), 0 * x_t

        def towards(self, alpha, sigma):
            return self

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

    sampler(gaussian(schedule), schedule.prior(normal(2, 1)), Condition(), Noted())
    assert bool(calls) == sampler.stochastic


@pytest.mark.slow
@over(schedule={"linear": Linear(), "vp": VP(), "ve": VE()})
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
        out = with_steps(sde_sampler, steps)(denoiser, schedule.prior(normal(n, 1)), Condition(), noise)[:, 0]
        return float(
            stats.kstest(
                out.numpy(), lambda v: 0.3 * stats.norm.cdf(v, -0.6, 0.3) + 0.7 * stats.norm.cdf(v, 0.5, 0.3)
            ).statistic
        )

    few, many = distance(4), distance(200)
    assert many < 1.95 / n**0.5 + 0.01  # the 0.1 % point, and what 200 steps leave
    assert many < few


def test_drawn_noise_has_to_come_from_somewhere(sampler):
    """Samplers that draw none do without; the others say what they need."""
    x_T, denoiser = torch.ones(2, 1, dtype=torch.float64), gaussian(VP())
    if sampler.stochastic:
        with pytest.raises(UserError, match="SampleNoise"):
            sampler(denoiser, x_T, Condition(), None)
    else:
        assert torch.equal(sampler(denoiser, x_T, Condition(), None), sampler(denoiser, x_T, Condition(), no_noise))
