"""Denoisers with an end: what ``towards`` promises, by the exact flow map of a Gaussian."""

import pytest
import torch

from oboro.condition import Condition
from oboro.denoiser.exact import GaussianDenoiser, GaussianFlowMap
from oboro.guidance import ClassifierFree
from oboro.sampler import DATA, DDIM, Euler, ddim_step, nodes
from oboro.schedule import VE, VP, Karras, Linear
from sampler.moments import moments

pytestmark = pytest.mark.usefixtures("global_generator_unread")

EXACT = {"rtol": 1e-12, "atol": 1e-12}
each_schedule = pytest.mark.parametrize("schedule", [Linear(), VP(), Karras()], ids=["linear", "vp", "karras"])


def flow_map(schedule):
    return GaussianFlowMap(GaussianDenoiser(0.3, 0.7, schedule))


def at(t, n=5):
    return torch.full((n,), t, dtype=torch.float64)


@each_schedule
def test_the_step_of_ddim_lands_on_the_flow_and_the_map_composes(schedule, normal):
    x, d = normal(5, 2), flow_map(schedule)

    def jump(x, t, s):
        (a, b) = nodes(schedule, [t, s])
        return ddim_step(x, d.towards(b.alpha, b.sigma)(x, at(t), Condition()), a, b)

    for t, s in ((0.9, 0.2), (0.3, 0.8), (0.5, 0.5 + 1e-9)):
        torch.testing.assert_close(jump(x, t, s), d.exact.flow(x, at(t), at(s)), **EXACT)
    torch.testing.assert_close(jump(jump(x, 0.9, 0.5), 0.5, 0.2), jump(x, 0.9, 0.2), **EXACT)


def test_ends_may_differ_in_a_batch_and_without_one_it_is_the_mean(normal):
    schedule, x, t = Linear(), normal(5, 2), torch.linspace(0.3, 0.9, 5, dtype=torch.float64)
    d, s = flow_map(schedule), torch.linspace(0.0, 0.9, 5, dtype=torch.float64)
    (a, sigma_t), (b, sigma_s) = (tuple(c[:, None] for c in schedule(v)) for v in (t, s))
    r = sigma_s / sigma_t
    x0 = d.towards(*schedule(s))(x, t, Condition())
    torch.testing.assert_close((b - a * r) * x0 + r * x, d.exact.flow(x, t, s), **EXACT)
    torch.testing.assert_close(d(x, t, Condition()), d.exact(x, t, Condition()), **EXACT)
    torch.testing.assert_close(d.towards(*schedule(t))(x, t, Condition()), d.exact(x, t, Condition()), **EXACT)


@each_schedule
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_any_number_of_steps_is_the_exact_flow(schedule, steps, normal):
    """Into exact data too, which on Karras has no time; through guidance, which changes nothing without a condition."""
    d, x = flow_map(schedule), schedule.prior(normal(5, 2))
    (one,) = nodes(schedule, [1.0])
    std = ((one.alpha * 0.7) ** 2 + one.sigma**2) ** 0.5
    data = 0.3 + 0.7 / std * (x - one.alpha * 0.3)
    for sampler in (DDIM(steps), Euler(steps)):
        assert sampler.names_ends
        torch.testing.assert_close(sampler(d, x, Condition(), None), data, **EXACT)
        guided = ClassifierFree(3.0)(d, sampler.nodes(schedule))
        torch.testing.assert_close(sampler(guided, x, Condition(), None), data, **EXACT)
        middle = sampler(guided, x, Condition(), None, 1.0, 0.4)
        torch.testing.assert_close(middle, d.exact.flow(x, at(1.0), at(0.4)), **EXACT)
        torch.testing.assert_close(
            sampler(guided, middle, Condition(), None, 0.4, 0.8), d.exact.flow(x, at(1.0), at(0.8)), **EXACT
        )


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("eta", [0.4, 1.0, float("inf")])
def test_with_fresh_noise_every_number_of_steps_has_the_moments_of_the_data(eta, steps):
    schedule = VE()

    class Jumps:
        def __call__(self, denoiser, x, cond, noise):
            (one,) = nodes(schedule, [1.0])
            x_T = 0.3 + (0.7**2 + one.sigma**2) ** 0.5 / one.sigma * x
            return DDIM(steps, eta)(flow_map(schedule), x_T, cond, noise)

    assert moments(Jumps(), schedule, 0.3, 0.7) == pytest.approx((0.3, 0.49), rel=1e-9)


def test_who_knows_means_alone_is_itself():
    for d in (GaussianDenoiser(0.3, 0.7, Linear()), ClassifierFree(2.0)(GaussianDenoiser(0.3, 0.7, Linear()), [])):
        assert d.towards(DATA.alpha, DATA.sigma) is d
