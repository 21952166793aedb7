"""The variance of a reverse step: its range, what a network makes of it, and what a sampler gains by it."""

from itertools import pairwise
from math import exp, log

import diffusers
import pytest
import torch

from oboro.condition import Condition
from oboro.denoiser.exact import GaussianDenoiser, MixtureDenoiser
from oboro.sampler import DATA, DDIM, LearnedVariance, nodes, posteriors
from oboro.sampler.grid import Leading, LogSNR
from oboro.schedule import DDPM, VP, DiscreteCosine, Linear, expand_as
from sampler.moments import moments

pytestmark = pytest.mark.usefixtures("global_generator_unread")

TIMES = [0.95, 0.8, 0.5, 0.2, 0.05]


class Given:
    """A denoiser with a v of one's own."""

    def __init__(self, denoiser, v):
        self.denoiser, self.schedule, self.v = denoiser, denoiser.schedule, v

    def __call__(self, x_t, t, cond):
        return self.denoiser(x_t, t, cond)

    def with_variance(self, x_t, t, cond):
        return self(x_t, t, cond), self.v.expand_as(x_t)

    def towards(self, alpha, sigma):
        return self


# --- the range


def conditioned(schedule, t, s, std):
    """Gain, slope on the mean of the data, and variance of x_s given x_t for data N(0, std²), from the covariance of
    (x_s, x_t): with x_t = (alpha_t / alpha_s) x_s + noise."""
    (_, a, sigma_t), (_, b, sigma_s) = nodes(schedule, [t, s])
    var_s, var_t = ((scale * std) ** 2 + sigma**2 for scale, sigma in ((b, sigma_s), (a, sigma_t)))
    gain = (a / b) * var_s / var_t
    return gain, b - gain * a, var_s - gain**2 * var_t


def test_the_range_ends_at_data_without_and_with_unit_variance(schedule):
    table = posteriors(nodes(schedule, TIMES))
    for i, (t, s) in enumerate(pairwise(TIMES)):
        c_t, c_x, low = conditioned(schedule, t, s, 0.0)
        _, _, high = conditioned(schedule, t, s, 1.0)
        ours = [float(column[i]) for column in table]
        assert ours == pytest.approx([c_x, c_t, log(low), log(high)], rel=1e-9, abs=1e-9)


def test_the_range_is_that_of_one_table_on_every_schedule(schedules):
    """x_s / alpha_s has the same variance wherever log-SNR is the same, so v means the same."""
    log_snr = torch.linspace(-6, 4, 5, dtype=torch.float64)
    tables = []
    for schedule in schedules.values():
        grid = nodes(schedule, schedule.t_from_log_snr(log_snr).tolist())
        scale = 2 * torch.tensor([s.alpha for s in grid[1:]], dtype=torch.float64).log()
        table = posteriors(grid)
        tables.append(torch.stack([table.low - scale, table.high - scale]))
    for table in tables[1:]:
        torch.testing.assert_close(table, tables[0], rtol=1e-7, atol=1e-7)
    gap = torch.log1p(log_snr[1:].exp()) - torch.log1p(log_snr[:-1].exp())
    torch.testing.assert_close(tables[0][1] - tables[0][0], gap, rtol=1e-7, atol=1e-7)


def test_without_noise_left_the_range_begins_where_that_of_the_step_before_does(schedule):
    grid = [*nodes(schedule, [0.3, 0.2]), DATA]
    table = posteriors(grid)
    assert float(table.low[1]) == float(table.low[0]) > -20
    sigma, alpha = grid[1].sigma, grid[1].alpha
    assert float(table.high[1]) == pytest.approx(log(sigma**2 / (alpha**2 + sigma**2)))
    assert (float(table.c_x[1]), float(table.c_t[1])) == (1, 0)
    alone = posteriors(grid[1:])
    assert float(alone.low[0]) == float(alone.high[0])


@pytest.mark.parametrize("steps", [1000, 25])
@pytest.mark.parametrize("schedule", [DDPM(), DiscreteCosine()], ids=["linear", "cosine"])
def test_the_variance_is_that_of_diffusers_learned_range(schedule, steps, normal):
    """DDPMScheduler(variance_type="learned_range"), at every step of its grid but the last, where it has no bound."""
    scheduler = their(schedule, steps)
    grid = Leading()(schedule, steps)
    table, v = posteriors(grid), normal(steps - 1)
    ours = table._replace(low=table.low[:-1], high=table.high[:-1]).log_variance(v)
    theirs = [scheduler._get_variance(int(t), 2 * f - 1) for t, f in zip(scheduler.timesteps[:-1], v, strict=True)]
    torch.testing.assert_close(ours, torch.stack(theirs), rtol=1e-7, atol=1e-7)


def their(schedule, steps):
    """The scheduler of diffusers with our table in float64."""
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False, prediction_type="sample")
    scheduler.alphas_cumprod = schedule.alpha(schedule.t_of_index(torch.arange(1000))) ** 2
    scheduler.one = scheduler.one.double()
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("schedule", [DDPM(), DiscreteCosine()], ids=["linear", "cosine"])
def test_a_whole_run_is_that_of_diffusers(schedule, normal):
    weights, means = torch.tensor([[0.3, 0.7], [-0.8, 0.6]], dtype=torch.float64)
    denoiser = MixtureDenoiser(weights, means, 0.4, schedule)
    scheduler, sampler, x_T = their(schedule, 20), LearnedVariance(20, Leading()), normal(4, 3)

    def seeded():
        return torch.Generator().manual_seed(3)

    x, drawn = x_T, seeded()
    for t in scheduler.timesteps:
        time = schedule.t_of_index(t).expand(4)
        x0, v = denoiser.with_variance(x, time, Condition())
        x = scheduler.step(torch.cat([x0, 2 * v - 1], 1), int(t), x, generator=drawn).prev_sample
    drawn = seeded()
    ours = sampler.solve(
        denoiser,
        x_T,
        sampler.nodes(schedule),
        {},
        lambda like: torch.randn(like.shape, generator=drawn, dtype=like.dtype),
    )
    torch.testing.assert_close(ours, x, rtol=1e-7, atol=1e-7)


# --- the sampler


def test_v_0_is_ancestral_sampling(schedule, normal):
    denoiser, x_T, draws = GaussianDenoiser(0.3, 0.7, schedule), schedule.prior(normal(4, 3)), normal(5, 4, 3)
    runs = []
    for sampler, asked in (
        (LearnedVariance(6), Given(denoiser, torch.zeros(1, dtype=torch.float64))),
        (DDIM(6, eta=1.0), denoiser),
    ):
        left = iter(draws)
        runs.append(sampler(asked, x_T, Condition(), lambda like, left=left: next(left)))
    torch.testing.assert_close(*runs, rtol=1e-9, atol=1e-9)


def test_each_number_has_the_variance_that_its_own_v_says(schedule, normal):
    v, x, grid = normal(2, 3), normal(2, 3), nodes(schedule, [0.8, 0.5])
    denoiser, sampler = Given(GaussianDenoiser(0.3, 0.7, schedule), v), LearnedVariance(1)
    still, moved = (
        sampler.solve(denoiser, x, grid, Condition(), lambda like, z=z: torch.full_like(like, z)) for z in (0, 1)
    )
    (low,), (high,) = posteriors(grid).low.exp().tolist(), posteriors(grid).high.exp().tolist()
    torch.testing.assert_close((moved - still) ** 2, low ** (1 - v) * high**v, rtol=1e-8, atol=1e-12)


def test_data_of_unit_variance_are_sampled_exactly_whatever_the_steps(schedule):
    """There v = 1, and p(x_s | x_t) is the Gaussian of the step. The last step, into data, gives a mean."""
    for steps in (1, 2, 7):
        grid = nodes(schedule, torch.linspace(1, 0.1, steps + 1, dtype=torch.float64).tolist())

        def solve(denoiser, x_T, cond, noise, grid=grid):
            return LearnedVariance(1).solve(denoiser, x_T, grid, cond, noise)

        mean, variance = moments(solve, schedule, 0.4, 1.0)
        end = grid[-1]
        left = grid[0].alpha ** 2  # of the signal at t = 1, which x_T ~ N(0, sigma_1²) lacks
        gain = conditioned(schedule, 1.0, 0.1, 1.0)[0]
        assert mean == pytest.approx(end.alpha * 0.4 - gain * grid[0].alpha * 0.4, rel=1e-9)
        assert variance == pytest.approx(end.alpha**2 + end.sigma**2 - gain**2 * left, rel=1e-9)


def test_the_learned_variance_is_worth_many_steps():
    """N(0.3, 0.7²): 25 steps miss the variance of the data by less than 400 steps with the fixed variance do."""
    grid = LogSNR(-7.8, 10)
    learned, fixed = (
        abs(moments(sampler, VP(), 0.3, 0.7)[1] / 0.7**2 - 1)
        for sampler in (LearnedVariance(25, grid), DDIM(400, 1.0, grid))
    )
    assert learned < fixed < 0.03


# --- the v of exact denoisers


def reverse_variance(denoiser, x_t, t, s):
    """Var[x_s | x_t] of a Gaussian mixture by quadrature over x."""
    weights, means, std = denoiser.weights, denoiser.means, denoiser.std
    (_, a, sigma_t), _ = grid = nodes(denoiser.schedule, [t, s])
    x = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    prior = (weights * torch.exp(-(((x[:, None] - means) / std) ** 2) / 2)).sum(1)
    posterior = prior * torch.exp(-(((x_t - a * x) / sigma_t) ** 2) / 2)
    posterior = posterior / posterior.sum()
    spread = float((posterior * x**2).sum() - (posterior * x).sum() ** 2)
    table = posteriors(grid)
    return exp(float(table.low)) + float(table.c_x) ** 2 * spread


@pytest.mark.parametrize("data", ["gaussian", "mixture"])
def test_the_v_of_exact_denoisers_gives_the_reverse_variance_of_short_steps(data, schedule):
    """log Var[x_s | x_t] by quadrature; the part of it that depends on v is as long as the step."""
    weights, means = torch.tensor([[0.3, 0.7], [-0.6, 0.5]], dtype=torch.float64)
    mixture = MixtureDenoiser(weights, means, 0.3, schedule)
    if data == "gaussian":
        mixture = MixtureDenoiser(weights[:1], means[:1], 0.7, schedule)
    exact = GaussianDenoiser(-0.6, 0.7, schedule) if data == "gaussian" else mixture
    log_snr = torch.tensor([0.5, 0.51], dtype=torch.float64)
    t, s = schedule.t_from_log_snr(log_snr).tolist()
    table = posteriors(nodes(schedule, [t, s]))
    for x in (-0.7, 0.1, 1.2):
        x_t = torch.full((1, 1), x, dtype=torch.float64) * float(schedule.alpha(torch.tensor(t, dtype=torch.float64)))
        x0, v = exact.with_variance(x_t, torch.tensor([t], dtype=torch.float64), Condition())
        assert torch.equal(x0, exact(x_t, torch.tensor([t], dtype=torch.float64), Condition()))
        wanted = (log(reverse_variance(mixture, float(x_t), t, s)) - float(table.low)) / float(table.high - table.low)
        assert float(v) == pytest.approx(wanted, rel=0.01)


def test_v_of_each_row_is_that_of_its_own_time(normal):
    for exact in (
        GaussianDenoiser(0.3, 0.7, Linear()),
        MixtureDenoiser(*torch.tensor([[0.3, 0.7], [-0.6, 0.5]], dtype=torch.float64), 0.3, Linear()),
    ):
        x_t, t = normal(3, 2), torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
        together = exact.with_variance(x_t, t, Condition())
        alone = [exact.with_variance(x_t[i : i + 1], t[i : i + 1], Condition()) for i in range(3)]
        for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
            torch.testing.assert_close(whole, torch.cat(parts))
        assert (together[1] != expand_as(together[1][:1, 0], x_t))[1:].all()
