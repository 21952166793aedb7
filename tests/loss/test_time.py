from math import pi, sinh

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy import stats

from cases import over
from loss.toys import TIMES, OffBy, Recorder, level, loss_of, midpoints
from oboro.base.errors import UserError
from oboro.condition import Condition
from oboro.loss import weighting
from oboro.loss.time import T_MIN, Fixed, LogitNormal, LogNormal, LossAware, Uniform
from oboro.schedule import Karras, Laplace, Linear

pytestmark = pytest.mark.usefixtures("global_generator_unread")

CDF = {
    "uniform": lambda t, schedule: t,
    "logit_normal": lambda t, schedule: torch.special.ndtr(torch.logit(t)),
    "log_normal": lambda t, schedule: torch.special.ndtr((-schedule.log_snr(t) / 2 + 1.2) / 1.2),
    "log_normal_wide": lambda t, schedule: torch.special.ndtr((-schedule.log_snr(t) / 2 + 1.1) / 2.0),
    "u_shaped": lambda t, schedule: 0.5 + torch.sinh(4 * (t - 0.5)) / (2 * sinh(2)),
    "uniform_early": lambda t, schedule: t / 0.8,
    "uniform_inside": lambda t, schedule: (t - 0.02) / 0.96,
    "loss_aware": lambda t, schedule: t,  # of its base
}

each_time = pytest.mark.parametrize("name", TIMES)


def test_every_distribution_has_its_closed_form_here():
    assert set(TIMES) == set(CDF), "add the closed form of the new p(t) to CDF"


@over(name=TIMES.keys())
def test_quantile_is_the_inverse_of_the_closed_form_distribution(name, schedule):
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    t = TIMES[name].quantile(u, schedule)
    assert (t.diff() > 0).all()
    torch.testing.assert_close(CDF[name](t, schedule), u, atol=1e-9, rtol=0)


def test_log_normal_has_the_mean_and_std_of_edm(schedule):
    log_sigma = -schedule.log_snr(LogNormal(-1.2, 1.2).quantile(midpoints(100_000), schedule)) / 2
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=1e-6)
    assert float(log_sigma.std()) == pytest.approx(1.2, abs=1e-4)
    moved = -schedule.log_snr(LogNormal(0.5, 0.3).quantile(midpoints(100_000), schedule)) / 2
    assert float(moved.mean()) == pytest.approx(0.5, abs=1e-6)
    assert float(moved.std()) == pytest.approx(0.3, abs=1e-4)


def test_logit_normal_has_its_location_and_scale():
    logit = torch.logit(LogitNormal(0.4, 1.5).quantile(midpoints(100_000), Linear()))
    assert float(logit.mean()) == pytest.approx(0.4, abs=1e-6)
    assert float(logit.std()) == pytest.approx(1.5, abs=1e-4)


@each_time
def test_drawn_times_follow_the_distribution(name, rng):
    schedule = Linear()  # its range of noise is not cut
    recorder = Recorder(schedule)
    loss_of(TIMES[name]).eval()(recorder, torch.zeros(20_000, 1), Condition(), rng)
    u = CDF[name](recorder.t.double(), schedule)
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(recorder.x_t[:, 0].double().numpy() / recorder.t.numpy(), "norm").pvalue > 1e-3
    assert abs(stats.spearmanr(recorder.x_t[:, 0] / recorder.t, recorder.t).statistic) < 4 / 20_000**0.5


@over(name=TIMES.keys())
def test_times_never_leave_the_schedule(name, schedule):
    u = torch.tensor([0.0, 1e-7, 1e-4, 0.5, 1 - 1e-4, 1 - 2**-24, 1.0])
    t = level(schedule, p_t=TIMES[name], u=u).t
    assert (t >= T_MIN * (1 - 1e-6)).all() and (t <= 1).all()


# --- the density of log-SNR


def test_density_of_log_snr_of_the_log_normal_is_normal(schedule):
    """log_snr ~ N(-2 mean, (2 std)²) between the ends of the schedule; what lies beyond them has no density."""
    close = (
        3e-3 if isinstance(schedule, Laplace) else 1e-6
    )  # its log-SNR changes so fast at the ends that t has few digits
    cut = level(schedule, p_t=LogNormal(-1.0, 3.0), u=midpoints(400))
    t = LogNormal(-1.0, 3.0).quantile(midpoints(400), schedule)
    inside = (t > T_MIN) & (t < 1)
    z = (cut.log_snr[inside] - 2) / 6
    torch.testing.assert_close(cut.inverse_density[inside], 6 * (2 * pi) ** 0.5 * (z**2 / 2).exp(), rtol=close, atol=0)
    assert (cut.inverse_density[~inside] == 0).all() and inside.float().mean() > 0.5


def test_density_of_log_snr_of_uniform_times_on_the_linear_schedule():
    """log_snr = 2 log((1 - t) / t) has the slope -2 / (t (1 - t))."""
    u = midpoints(100)
    torch.testing.assert_close(level(Linear(), u=u).inverse_density, 2 / (u * (1 - u)), rtol=1e-12, atol=0)


@each_time
def test_density_integrates_to_the_range_of_log_snr(name):
    """E[1 / p] over uniform u: the whole length of log-SNR between the times that p covers, here the schedule's."""
    u = midpoints(200_000)
    wide = {"log_normal": LogNormal(1.0, 2.5), "logit_normal": LogitNormal(0.0, 2.0)}.get(name, TIMES[name])
    covered = {"uniform_early": [T_MIN, 0.8], "uniform_inside": [0.02, 0.98]}.get(name, [T_MIN, 1.0])
    ends = Karras().log_snr(torch.tensor(covered, dtype=torch.float64))
    total = level(Karras(), p_t=wide, u=u).inverse_density.mean()
    assert float(total) == pytest.approx(float(ends[0] - ends[1]), rel=2e-3)


def test_density_can_be_had_where_gradients_are_off():
    expected = level(Linear()).inverse_density
    with torch.inference_mode():
        assert torch.equal(level(Linear()).inverse_density, expected)


def test_a_fixed_time_is_that_time_for_every_quantile_and_has_no_density(schedule):
    at = level(schedule, p_t=Fixed(0.3), u=midpoints(5))
    assert torch.equal(at.t, torch.full_like(at.t, 0.3))
    for weight in (weighting.ELBO(), weighting.Sigmoid()):
        with pytest.raises(UserError, match="loss/weighting=uniform"):
            weight(at)
    assert loss_of(Fixed(0.3)).teaches_time == 0.3 and loss_of().teaches_time is None


# --- loss-aware times


def filled(bins=8, history=4, uniform=0.05, base=None) -> LossAware:
    """A distribution that has seen losses which grow with u."""
    p_t = LossAware(base or Uniform(), bins, history, uniform)
    u = midpoints(bins * history).float()
    p_t.record(u, u**2 + 0.1)
    return p_t


def test_probabilities_are_proportional_to_the_root_of_the_mean_square():
    p_t = LossAware(Uniform(), bins=2, history=2, uniform=0.1)
    p_t.record(torch.tensor([0.1, 0.9, 0.2, 0.8]), torch.tensor([1.0, 10.0, 7.0, 10.0]))
    torch.testing.assert_close(p_t.probabilities(), torch.tensor([0.9 / 3 + 0.05, 0.9 * 2 / 3 + 0.05]))


def test_draws_are_uniform_until_every_bin_has_its_history():
    p_t = LossAware(Uniform(), bins=2, history=2, uniform=0.1)
    p_t.record(torch.tensor([0.1, 0.9, 0.2]), torch.tensor([3.0, 6.0, 4.0]))
    u = midpoints(50).float()
    torch.testing.assert_close(p_t.draw(u), u)
    torch.testing.assert_close(p_t.correct(u, u), u)


def test_the_history_is_of_the_latest_losses():
    """Also when one batch has more losses of a bin than the history holds."""
    p_t, expected = LossAware(Uniform(), bins=2, history=3), {0: [], 1: []}
    g = torch.Generator().manual_seed(0)
    for size in (1, 9, 2, 4, 7):
        u, loss = torch.rand(size, generator=g), torch.rand(size, generator=g)
        p_t.record(u, loss)
        for v, value in zip(u.tolist(), loss.tolist(), strict=True):
            expected[int(v * 2)].append(value)
    for k in (0, 1):
        assert sorted(p_t.losses[k].tolist()) == sorted(expected[k][-3:])
        assert p_t.counts[k] == len(expected[k])


def test_draws_fall_into_the_bins_with_their_probabilities():
    p_t = filled()
    drawn = p_t.draw(midpoints(80_000))
    shares = torch.histc(drawn, 8, 0, 1) / 80_000
    torch.testing.assert_close(shares.float(), p_t.probabilities(), atol=1e-4, rtol=0)
    assert shares[-1] > 3 * shares[0]
    for k in range(8):  # uniform within a bin
        inside = drawn[(drawn * 8).long() == k] * 8 - k
        assert stats.kstest(inside.numpy(), "uniform").statistic < 0.002


def test_the_expected_loss_is_that_of_uniform_draws():
    u = midpoints(100_000)
    p_t = filled()
    for f in (torch.sin, torch.exp, lambda v: v**5):
        drawn = p_t.draw(u)
        assert float(p_t.correct(drawn, f(drawn)).mean()) == pytest.approx(float(f(u).mean()), rel=1e-4)


def test_the_weighted_loss_varies_less_where_losses_differ(rng):
    """What importance sampling is for: a loss that is 100 times larger in one bin of ten."""
    p_t, u = LossAware(Uniform(), 10, 1, 0.01), midpoints(10_000)
    rare = lambda v: torch.where((v * 10).long() == 3, 100.0, 1.0).double()  # noqa: E731
    p_t.record(midpoints(10).float(), rare(midpoints(10)))
    drawn = p_t.draw(u)
    corrected = p_t.correct(drawn, rare(drawn))
    assert float(corrected.mean()) == pytest.approx(float(rare(u).mean()), rel=2e-3)
    assert corrected.std() < rare(u).std() / 10


def test_only_training_changes_the_state_and_validation_does_not_see_it(normal):
    x, eps, u = normal(40, 3), normal(40, 3), midpoints(40)
    aware, plain = loss_of(filled(base=LogitNormal())), loss_of(LogitNormal())
    denoiser = OffBy(Linear(), torch.sigmoid)
    before = {k: v.clone() for k, v in aware.state_dict().items()}
    assert torch.equal(*(loss.at_quantile(denoiser, x, Condition(), u, eps) for loss in (aware, plain)))
    aware.eval()(denoiser, x, Condition(), torch.Generator().manual_seed(0))
    assert all(torch.equal(v, before[k]) for k, v in aware.state_dict().items())
    aware.train()(denoiser, x, Condition(), torch.Generator().manual_seed(0))
    assert aware.time.counts.sum() == before["time.counts"].sum() + 40


def test_what_is_recorded_is_what_trains_the_denoiser(normal):
    """Under a learned log-variance that is L / exp(u), which an optimal u makes equal everywhere."""
    weight = weighting.LearnedLogVariance(weighting.SNR())
    with torch.no_grad():
        weight.head.normal_(generator=torch.Generator().manual_seed(0))
    loss = loss_of(LossAware(Uniform(), 1, 64), weight)
    x = torch.zeros(64, 3, dtype=torch.float64)
    loss(OffBy(Linear(), torch.sigmoid), x, Condition(), torch.Generator().manual_seed(0))
    seen = level(Linear(), u=torch.rand(64, generator=torch.Generator().manual_seed(0)).double())
    expected = seen.log_snr.exp() * torch.sigmoid(seen.log_snr) / weight.log_variance(seen).exp()
    torch.testing.assert_close(loss.time.losses[0].double(), expected.detach(), rtol=1e-5, atol=0)


def test_the_expected_objective_of_a_learned_weight_is_that_of_uniform_draws_too():
    """Its second term as well: else u would have its optimum elsewhere under a preference for some noise levels."""
    weight = weighting.LearnedLogVariance(weighting.MinSNR()).double()
    with torch.no_grad():
        weight.head.normal_(generator=torch.Generator().manual_seed(0))
    x, denoiser = torch.zeros(20_000, 1, dtype=torch.float64), OffBy(Linear(), torch.sigmoid)
    plain, aware = (
        loss_of(p_t, weight, stratified=True).eval()(denoiser, x, Condition(), torch.Generator().manual_seed(0)).mean()
        for p_t in (LogitNormal(), filled(base=LogitNormal()))
    )
    torch.testing.assert_close(aware, plain, rtol=2e-3, atol=0)


@pytest.mark.parametrize("wrong", [{"bins": 0}, {"history": 0}, {"uniform": 0.0}, {"uniform": 1.5}])
def test_a_preference_that_could_exclude_a_noise_level_is_refused(wrong):
    with pytest.raises(UserError, match=r"set loss\.time\."):
        LossAware(Uniform(), **wrong)


def on_rank(rank, folder):
    """Two ranks that see losses of their own, with batches of unequal size."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    p_t = LossAware(Uniform(), bins=3, history=4)
    for step in range(3):
        u = torch.rand(5 + rank, generator=torch.Generator().manual_seed(10 * step + rank))
        p_t.record(u, u + rank)
    torch.save(p_t.state_dict(), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_share_one_history(tmp_path):
    mp.spawn(on_rank, (tmp_path,), 2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert first["counts"].sum() == 33 and ((first["losses"] > 1).any() and (first["losses"] < 1).any())
