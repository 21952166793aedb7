import runpy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from oboro.base.errors import UserError
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition
from oboro.denoiser.exact import MixtureDenoiser
from oboro.sampler import DATA, Adaptive, node_at, nodes
from oboro.sampler.adaptive import Evaluation, exponential_step
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
    # E is of order h⁴: a tenth of the tolerance takes 1.8 times the steps.
    assert all(a < b < 2.2 * a for a, b in pairwise(costs))


@pytest.mark.slow
def test_adaptive_steps_do_not_depend_on_companions(schedule):
    """They arrive after different numbers of steps, and some need trials that others do not."""
    weights, means = torch.tensor([[0.3, 0.7], [-0.6, 0.5]])
    denoiser = MixtureDenoiser(weights, means, 0.1, schedule)
    x = schedule.prior(SampleNoise(0, range(30))(torch.empty(30, 1, 4, 4)))
    together = Adaptive()(denoiser, x, Condition(), no_noise)
    for i in range(0, 30, 2):
        assert torch.equal(Adaptive()(denoiser, x[i : i + 2], Condition(), no_noise), together[i : i + 2])


def test_too_few_trials_are_said():
    with pytest.raises(UserError, match=r"3 trials.*raise sampler\.steps or a tolerance"):
        Adaptive(3)(gaussian(Linear()), torch.ones(1, 1), Condition(), no_noise)


BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "adaptive.py"))


@pytest.mark.parametrize("schedule", [Linear(), VP(), Karras()], ids=["linear", "vp", "karras"])
def test_no_tolerance_costs_more_or_errs_more_than_the_published_solver(schedule):
    """DPM-Solver-23 (arXiv:2206.00927, app. C) at the same tolerances, the default among them, on every exact flow."""
    for problem in BENCHMARK["problems"](schedule).values():
        for rtol in (0.1, 0.05, 0.01):
            (evaluations, error), (published, error_of_it) = problem.of_adaptive(rtol), problem.of_reference(rtol)
            assert evaluations < published and error < error_of_it


def test_a_step_is_exact_for_a_denoiser_that_is_a_cubic_in_lambda():
    """Four evaluations fit it, whatever their distances."""
    schedule, c = VP(), torch.tensor([0.3, -0.2, 0.1, 0.05], dtype=torch.float64)

    lam = torch.tensor([[0.1], [-0.2], [-0.9], [-1.3]], dtype=torch.float64)
    known = [Evaluation(v, sum(c[k] * v**k for k in range(4)).expand(1, 2)) for v in lam]
    x, to = torch.full((1, 2), 0.4, dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    out = exponential_step(schedule, x, known[0].lam, to, known)
    a, b = (node_at(schedule, float(v)) for v in (known[0].lam, to))
    tau, w = np.polynomial.legendre.leggauss(40)
    tau = (tau + 1) / 2 * 0.7
    integral = float((w / 2 * 0.7 * np.exp(tau - 0.7) * sum(float(c[k]) * (0.1 + tau) ** k for k in range(4))).sum())
    torch.testing.assert_close(out, b.sigma / a.sigma * x + b.alpha * integral, rtol=1e-10, atol=1e-10)
    assert torch.equal(exponential_step(schedule, x, to, to, known), x)
