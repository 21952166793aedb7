"""Reflow: pairs of a teacher, and paths that its pairs make straight."""

from types import SimpleNamespace

import pytest
import torch

from oboro.base.errors import UserError
from oboro.condition import Condition
from oboro.denoiser import GaussianDenoiser
from oboro.loss import Reflow, penalty, time, weighting
from oboro.parameterization import Velocity
from oboro.sampler import DDIM, Euler, Heun
from oboro.schedule import Linear, expand_as


def learning_from(denoiser):
    return SimpleNamespace(on=lambda schedule, like: denoiser, denoiser=denoiser, evaluations=1)


def loss_of(sampler, p_t=None):
    teacher = learning_from(GaussianDenoiser(0.3, 0.7, Linear()))
    return Reflow(p_t or time.UShaped(), weighting.SNR(), penalty.Squared(), teacher, sampler)


class Straight:
    """The exact rectified flow of pairs (eps, mean + std eps): one line through each x_t."""

    def __init__(self):
        self.schedule = Linear()
        self.parameterization = Velocity()

    def towards(self, alpha, sigma):
        return self

    def __call__(self, x_t, t, cond):
        alpha, sigma = self.schedule(expand_as(t, x_t))
        eps = (x_t - alpha * 0.3) / (alpha * 0.7 + sigma)
        return 0.3 + 0.7 * eps


def test_pairs_are_those_of_the_teachers_flow(normal):
    eps = normal(5, 3)
    torch.testing.assert_close(loss_of(Heun(200)).made_of(eps, Condition()), 0.3 + 0.7 * eps, rtol=0, atol=2e-4)


def test_the_straight_flow_of_the_pairs_has_no_loss_and_one_step_is_exact(normal):
    """Where no two paths cross x_t tells its pair, so that the mean of x is x: the loss is that of the pairs alone."""
    x, eps, u = normal(6, 3), normal(6, 3), torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    assert loss_of(Heun(200)).at_quantile(Straight(), x, Condition(), u, eps).max() < 1e-4
    noise = normal(5, 3)
    torch.testing.assert_close(Euler(1)(Straight(), noise, Condition(), None), 0.3 + 0.7 * noise)


def test_the_data_are_not_looked_at(normal):
    eps, u = normal(4, 3), torch.full((4,), 0.4, dtype=torch.float64)
    losses = [loss_of(Heun(4)).at_quantile(Straight(), x, Condition(), u, eps) for x in (normal(4, 3), normal(4, 3))]
    assert torch.equal(*losses)


def test_a_sampler_that_draws_is_refused_and_evaluations_are_counted():
    with pytest.raises(UserError, match="heun"):
        loss_of(DDIM(4, eta=1.0))
    assert loss_of(DDIM(4)).evaluations == 5 and loss_of(Heun(4)).evaluations == 7
