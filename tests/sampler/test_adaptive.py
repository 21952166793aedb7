from itertools import pairwise

import pytest
import torch

from oboro.base.errors import UserError
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition
from oboro.sampler import DATA, Adaptive, node_at, nodes
from oboro.schedule import VP, Karras, Linear
from sampler.toys import Counter, exact_denoisers, gaussian, no_noise

pytestmark = pytest.mark.usefixtures("global_generator_unread")


@pytest.mark.parametrize("schedule", [Linear(), VP(), Karras()], ids=["linear", "vp", "karras"])
def test_a_smaller_tolerance_is_more_exact_and_dearer(schedule):
    denoiser = exact_denoisers(schedule)[1]
    x = schedule.prior(torch.tensor([[-1.3], [0.4], [2.0]], dtype=torch.float64))
    ends = [node_at(schedule, v).t for v in (-5.0, 5.0)]
    t, s = (torch.full((3,), v, dtype=torch.float64) for v in ends)
    start = x * float(schedule.sigma(t[:1]) / schedule.sigma(torch.ones(1, dtype=torch.float64)))
    exact = denoiser(denoiser.flow(start, t, s), s, Condition())
    errors, costs = [], []
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
        counter = Counter(denoiser)
        sampler = Adaptive(2000, rtol=tolerance, atol=tolerance / 10)
        out = sampler.solve(counter, start, [*nodes(schedule, ends), DATA], Condition(), no_noise)
        errors.append(float((out - exact).abs().max()))
        costs.append(len(counter.times))
        assert costs[-1] <= sampler.evaluations(schedule)
    assert all(b < 0.8 * a for a, b in pairwise(errors)) and errors[-1] < 0.05 * errors[0]
    # Of second order: a hundredth of the tolerance takes about ten times the steps, since E is first against second.
    assert all(a < b < 12 * a for a, b in pairwise(costs))


def test_adaptive_steps_do_not_depend_on_companions(schedule):
    denoiser = exact_denoisers(schedule)[1]
    x = schedule.prior(SampleNoise(0, range(6))(torch.empty(6, 1, 4, 4)))
    together = Adaptive()(denoiser, x, Condition(), no_noise)
    assert torch.equal(Adaptive()(denoiser, x[2:4], Condition(), no_noise), together[2:4])


def test_too_few_trials_are_said():
    with pytest.raises(UserError, match=r"3 trials.*raise sampler\.steps or a tolerance"):
        Adaptive(3)(gaussian(Linear()), torch.ones(1, 1), Condition(), no_noise)
