"""The chain of a denoising autoencoder against its stationary distribution, which is known for Gaussian data."""

from math import sqrt

import pytest
import torch

from oboro.base.errors import UserError
from oboro.condition import Condition
from oboro.denoiser.exact import GaussianDenoiser
from oboro.sampler import WalkBack
from oboro.schedule import VP, Linear

MEAN, S = 0.6, 0.8


def constants(schedule, t: float) -> tuple[float, float, float, float]:
    """alpha, sigma, the slope k of D, and the std of the data given x_t."""
    alpha, sigma = (float(c) for c in schedule(torch.tensor(t, dtype=torch.float64)))
    total = alpha**2 * S**2 + sigma**2
    return alpha, sigma, alpha * S**2 / total, S * sigma / sqrt(total)


def drawn(schedule, sampler, normal, noise) -> torch.Tensor:
    x = schedule.prior(normal(200, 500))
    return sampler(GaussianDenoiser(MEAN, S, schedule), x, Condition(), noise)


@pytest.mark.parametrize("t", [0.4, 0.7])
@pytest.mark.parametrize("schedule", [Linear(), VP()], ids=["linear", "vp"])
def test_with_the_noise_of_the_posterior_the_walk_has_the_moments_of_the_data(schedule, t, normal, noise):
    """Its last step leaves that noise out: the law of total variance has the rest."""
    *_, std = constants(schedule, t)
    x = drawn(schedule, WalkBack(40, t, std), normal, noise)
    assert abs(x.mean() - MEAN) < 0.01
    assert float(x.var() + std**2) == pytest.approx(S**2, rel=0.02)


def test_without_it_the_walk_contracts_to_a_known_spread(normal, noise):
    """V = k² (alpha² V + sigma²)."""
    schedule, t = Linear(), 0.4
    alpha, sigma, k, _ = constants(schedule, t)
    x = drawn(schedule, WalkBack(40, t), normal, noise)
    assert abs(x.mean() - MEAN) < 0.01
    assert float(x.var()) == pytest.approx((k * sigma) ** 2 / (1 - (k * alpha) ** 2), rel=0.02)


def test_a_walk_forgets_where_it_begins(normal, noise):
    schedule = Linear()
    sampler, denoiser = WalkBack(40, 0.5), GaussianDenoiser(MEAN, S, schedule)
    far = sampler(denoiser, schedule.add_noise(9 + normal(200, 500), normal(200, 500), torch.full((200,), 0.5)),
                  Condition(), noise, start=0.5)  # fmt: skip
    near = drawn(schedule, sampler, normal, noise)
    assert abs(far.mean() - near.mean()) < 0.01 and abs(far.std() - near.std()) < 0.01


def test_one_step_is_the_denoiser_and_each_step_an_evaluation(normal, noise):
    schedule = Linear()
    x, denoiser = normal(3, 4), GaussianDenoiser(MEAN, S, schedule)
    asked = denoiser(x / 2, torch.full((3,), 0.5).double(), Condition())
    torch.testing.assert_close(WalkBack(1, 0.5)(denoiser, x, Condition(), None), asked)
    assert WalkBack(7).evaluations(schedule) == 7
    assert [node.t for node in WalkBack(2, 0.3).nodes(schedule)] == [0.3, 0.3, 0.0]


@pytest.mark.parametrize(("start", "stop"), [(0.7, 0.0), (1.0, 0.2), (0.0, 1.0)])
def test_it_goes_nowhere_else(start, stop):
    with pytest.raises(UserError, match=r"stays at t=0\.5"):
        WalkBack(5, 0.5).nodes(Linear(), start, stop)
