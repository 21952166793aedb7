import pytest
import torch
from scipy import stats

from cases import over
from conftest import each_denoiser
from loss.toys import TIMES, WEIGHTS, Recorder, U, Wave, by_hand, loss_of, midpoints
from oboro.condition import Condition, Image, Label
from oboro.denoiser import Denoiser
from oboro.loss.coupling import OptimalTransport
from oboro.loss.penalty import PseudoHuber
from oboro.loss.time import LogitNormal, LogNormal
from oboro.loss.weighting import EDM as EDMWeight
from oboro.loss.weighting import SNR, MinSNR
from oboro.parameterization import EDM, V
from oboro.schedule import VP, Karras, Linear

pytestmark = pytest.mark.usefixtures("global_generator_unread")


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@each_denoiser
def test_uniform_weight_is_plain_mse_on_the_target_of_the_network(schedule, parameterization, normal):
    denoiser = Denoiser(Wave(), schedule, parameterization)
    x, eps, cond = normal(5, 1, 4, 4), normal(5, 1, 4, 4), Condition.of(label=Label(normal(5)))
    loss = loss_of().at_quantile(denoiser, x, cond, U, eps)
    _, output, target, _ = by_hand(denoiser, x, cond, U, eps)
    torch.testing.assert_close(loss, ((output - target) ** 2).mean((1, 2, 3)), rtol=1e-8, atol=1e-12)


@over(p_t=TIMES, weight=WEIGHTS)
def test_no_nan_at_the_ends_of_the_distribution(p_t, weight, schedule, monkeypatch):
    """torch.rand gives 0 and 1 - 2^-24, to which 2^-25 was once added: a u of 1, and NaN on the VP schedule."""
    u = torch.tensor([0.0, 2.0**-25, 1 - 2.0**-24, 1.0]).repeat_interleave(2)
    monkeypatch.setattr(torch, "rand", lambda n, **_: u)
    x = torch.linspace(-1, 1, 8)[:, None]
    loss = loss_of(p_t, weight).eval()(Denoiser(Wave(), schedule, V()), x, Condition(), seeded())
    assert loss.isfinite().all(), f"of u = {u.tolist()}: {loss.tolist()}"


def test_extreme_parameters_stay_finite(schedule, normal):
    """Narrow and wide log-normal noise levels that lie beyond the schedule are cut at its ends."""
    x, eps = normal(4, 3).float(), normal(4, 3).float()
    u = torch.tensor([0.0, 0.1, 0.9, 1.0])
    for mean, std in ((-20.0, 1.0), (20.0, 1.0), (0.0, 5.0), (90.0, 5.0)):
        for weight in (EDMWeight(), WEIGHTS["sigmoid"]):
            loss = loss_of(LogNormal(mean, std), weight)
            assert loss.at_quantile(Denoiser(Wave(), schedule, EDM()), x, Condition(), u, eps).isfinite().all()


def test_the_penalty_is_weighted(normal):
    denoiser, x, eps = Denoiser(Wave(), VP(), V()), normal(5, 3), normal(5, 3)
    x_t, output, _, c = by_hand(denoiser, x, Condition(), U, eps)
    expected = PseudoHuber(0.1)(c.c_skip * x_t + c.c_out * output - x) * VP().log_snr(U).exp()
    loss = loss_of(weight=SNR(), penalty=PseudoHuber(0.1)).at_quantile(denoiser, x, Condition(), U, eps)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)


# --- the draw


def test_the_loss_is_a_function_of_its_generator(normal):
    denoiser, x = Denoiser(Wave(), Linear(), V()), normal(6, 1, 4, 4)
    loss = loss_of(stratified=True, offset_noise=0.1, input_perturbation=0.1, coupling=OptimalTransport())
    first, again, other = (loss(denoiser, x, Condition(), seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_one_loss_per_sample_independent_of_its_companions(normal):
    denoiser, loss = Denoiser(Wave(), VP(), V()), loss_of(LogitNormal(), MinSNR())
    x, eps, cond = normal(5, 1, 4, 4), normal(5, 1, 4, 4), Condition.of(label=Label(normal(5)))
    together = loss.at_quantile(denoiser, x, cond, U, eps)
    assert together.shape == (5,)
    for i in range(5):
        row = slice(i, i + 1)
        alone = loss.at_quantile(denoiser, x[row], cond.rows(row), U[row], eps[row])
        torch.testing.assert_close(alone, together[row], rtol=1e-12, atol=0)


def times(loss, n, seed):
    recorder = Recorder(Linear())  # t = u
    loss(recorder, torch.zeros(n, 1), Condition(), seeded(seed))
    return recorder.t.double()


def test_stratified_quantiles_fall_one_into_each_stratum_in_random_order():
    t = times(loss_of(stratified=True), 64, 0)
    strata = (t * 64).long()
    assert strata.sort().values.tolist() == list(range(64)) and strata.tolist() != list(range(64))
    assert stats.kstest(((t * 64) % 1).numpy(), "uniform").pvalue > 1e-3


def test_stratified_quantiles_are_uniform_in_every_row():
    rows = torch.stack([times(loss_of(stratified=True), 8, seed) for seed in range(2000)])
    for row in rows.T:
        assert stats.kstest(row.numpy(), "uniform").pvalue > 1e-4


def test_the_mean_of_stratified_quantiles_has_the_variance_of_one_stratum():
    """var(mean of u) = 1 / (12 B³) instead of 1 / (12 B)."""
    means = [
        torch.stack([times(loss_of(stratified=s), 16, seed).mean() for seed in range(2000)]) for s in (True, False)
    ]
    assert float(means[0].var()) == pytest.approx(1 / (12 * 16**3), rel=0.15)
    assert float(means[1].var()) == pytest.approx(1 / (12 * 16), rel=0.15)


def noise(loss, x, schedule=None):
    """eps as the denoiser got to see it."""
    recorder = Recorder(schedule or Karras())
    loss(recorder, x, Condition(), seeded())
    sigma = recorder.schedule.sigma(recorder.t).view(-1, *(1,) * (x.ndim - 1))
    return (recorder.x_t - x) / sigma


def test_offset_noise_is_one_number_for_all_pixels_of_a_channel():
    """Variance 1 + offset² of a pixel, covariance offset² of two pixels, none of two channels."""
    eps = noise(loss_of(offset_noise=0.5), torch.zeros(4000, 2, 3, 3, dtype=torch.float64)).flatten(1)
    expected = torch.eye(18).double() + 0.25 * torch.block_diag(torch.ones(9, 9), torch.ones(9, 9)).double()
    assert (torch.cov(eps.T) - expected).abs().max() < 0.1


def test_optimal_transport_permutes_the_noise_of_the_draw():
    x = torch.randn(50, 2, generator=seeded(5), dtype=torch.float64)
    plain, coupled = noise(loss_of(), x), noise(loss_of(coupling=OptimalTransport()), x)
    torch.testing.assert_close(coupled.sort(0).values[:, 0], plain.sort(0).values[:, 0], rtol=1e-6, atol=1e-9)
    assert (coupled - x).square().sum() < (plain - x).square().sum()


@each_denoiser
def test_input_perturbation_keeps_the_target_of_the_network(schedule, parameterization, monkeypatch, normal):
    """x_t from eps + gamma xi, F's target from eps (arXiv:2301.11706, algorithm 1), written in the space of F."""
    x, eps, xi = normal(5, 1, 4, 4), normal(5, 1, 4, 4), normal(5, 1, 4, 4)
    draws = iter((eps, xi))
    denoiser = Denoiser(Wave(), schedule, parameterization)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", lambda *_, **__: next(draws))
        patch.setattr(torch, "rand", lambda n, **_: U)
        loss = loss_of(input_perturbation=0.1)(denoiser, x, Condition(), seeded())
    _, output, _, _ = by_hand(denoiser, x, Condition(), U, eps + 0.1 * xi)
    _, _, target, _ = by_hand(denoiser, x, Condition(), U, eps)
    torch.testing.assert_close(loss, ((output - target) ** 2).mean((1, 2, 3)), rtol=1e-7, atol=1e-11)


def test_validation_knows_none_of_what_training_adds(normal):
    """At given quantiles and noise the loss is the same number, whatever is drawn, coupled or perturbed in training."""
    added = {"stratified": True, "offset_noise": 0.3, "input_perturbation": 0.2, "coupling": OptimalTransport()}
    denoiser, x, eps = Denoiser(Wave(), Linear(), V()), normal(5, 3), normal(5, 3)
    assert torch.equal(*(loss.at_quantile(denoiser, x, Condition(), U, eps) for loss in (loss_of(**added), loss_of())))
    assert not torch.equal(*(loss(denoiser, x, Condition(), seeded()) for loss in (loss_of(**added), loss_of())))


def test_the_mean_over_draws_is_the_mean_over_quantiles(normal, rng):
    """Training and validation estimate the same number."""
    x, denoiser = normal(40_000, 2), Denoiser(Wave(), Linear(), V())
    drawn = loss_of()(denoiser, x, Condition(), rng)
    given = loss_of().at_quantile(denoiser, x, Condition(), midpoints(40_000), normal(40_000, 2))
    assert abs(float(drawn.mean() - given.mean())) < 4 * float(drawn.std()) / 200 * 2**0.5


def test_in_the_region_of_the_hole_known_pixels_teach_nothing(normal):
    """w mean over all pixels of the squares in the hole; a sample whose picture is dropped counts as a whole."""
    x, eps = normal(5, 1, 4, 4), normal(5, 1, 4, 4)
    known = torch.zeros(5, 1, 4, 4, dtype=torch.bool)
    known[..., :3] = True
    image = Image(x * known, known).drop(torch.tensor([False, True, False, False, False]))
    cond, denoiser = Condition.of(image=image), Recorder(VP())  # whose answer is 0
    whole = loss_of(region="all").at_quantile(denoiser, x, cond, U, eps)
    hole = loss_of(region="hole").at_quantile(denoiser, x, cond, U, eps)
    share = (x.square() * ~image.known).flatten(1).mean(1) / x.square().flatten(1).mean(1)
    torch.testing.assert_close(hole, whole * share)
    assert share[1] == 1 and share[[0, 2, 3, 4]].max() < 0.9
    without = Condition.of(image=Image(image.x, torch.ones(5, dtype=torch.bool)))
    torch.testing.assert_close(loss_of(region="hole").at_quantile(denoiser, x, without, U, eps), whole)
