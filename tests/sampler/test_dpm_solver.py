from copy import copy
from itertools import pairwise
from math import exp, expm1, log

import pytest
import torch

from conftest import SAMPLERS
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition
from oboro.denoiser.exact import GaussianDenoiser
from oboro.sampler import DDIM, DPMSolverPP, DPMSolverPP2S, node_at, nodes
from oboro.sampler.grid import LogSNR
from oboro.schedule import VP, Cosine
from sampler.toys import gaussian, grid, no_noise

pytestmark = pytest.mark.usefixtures("global_generator_unread")


def test_dpm_solver_pp_is_algorithm_2_of_its_paper(schedule, normal):
    """arXiv:2211.01095, algorithm 2, with the paper's r_i = h_{i-1} / h_i; data is denoised in a last Euler step."""
    x, denoiser, nodes_ = normal(5, 2), gaussian(schedule), grid(schedule, 0.9, 0.2, 6)
    lam = [log(n.alpha / n.sigma) for n in nodes_]
    h = [None, *(b - a for a, b in pairwise(lam))]

    def model(x, node):
        return denoiser(x, torch.full((5,), node.t, dtype=torch.float64), Condition())

    q = [model(x, nodes_[0])]
    expected = nodes_[1].sigma / nodes_[0].sigma * x - nodes_[1].alpha * (exp(-h[1]) - 1) * q[0]
    for i in range(2, 7):
        q.append(model(expected, nodes_[i - 1]))
        r = h[i - 1] / h[i]
        D = (1 + 1 / (2 * r)) * q[i - 1] - 1 / (2 * r) * q[i - 2]
        expected = nodes_[i].sigma / nodes_[i - 1].sigma * expected - nodes_[i].alpha * (exp(-h[i]) - 1) * D
    out = DPMSolverPP(6).solve(denoiser, x, nodes_, Condition(), no_noise)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


def test_dpm_solver_pp_takes_the_first_step_as_the_exponential_integrator(schedule, normal):
    """Exact where D is constant over the step, which makes it DDIM."""
    x, denoiser = normal(5, 2), gaussian(schedule)
    pair = nodes(schedule, [0.8, 0.6])
    ours, ddim = (s.solve(denoiser, x, pair, Condition(), no_noise) for s in (DPMSolverPP(1), DDIM(1, eta=0.0)))
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
    torch.testing.assert_close(DPMSolverPP(2).solve(LinearInLambda(), x, grid_, Condition(), no_noise), expected)


@pytest.mark.parametrize("name", ["dpm_solver_pp_sde", "dpm_solver_pp_2s_sde", "dpm_solver_pp_3m_sde"])
def test_more_steps_of_an_sde_end_in_the_same_image(name):
    """One Brownian path whatever the steps: the samples themselves converge, not only their distribution."""
    schedule = VP()
    denoiser = gaussian(schedule)

    def run(steps):
        sampler, noise = copy(SAMPLERS[name]), SampleNoise(0, [0])
        sampler.steps, sampler.grid = steps, LogSNR(-8, 8)
        return sampler(denoiser, schedule.prior(noise(torch.empty(1, 200, dtype=torch.float64))), Condition(), noise)

    coarse, middle, fine = run(20), run(80), run(320)
    assert (coarse - fine).std() < 0.25 * fine.std() and (middle - fine).std() < 0.6 * (coarse - fine).std()


def test_the_second_step_of_3m_is_that_of_2m(normal):
    """As in diffusers; k-diffusion's has another weight, (1 - (1 - e^{-h}) / h) h/h' (D_t - D_{t'})."""
    schedule, x, denoiser = VP(), normal(5, 2), gaussian(VP())
    three = LogSNR(-4, 4)(schedule, 3)[:3]
    second, third = (DPMSolverPP(3, n).solve(denoiser, x, three, Condition(), no_noise) for n in (2, 3))
    assert torch.equal(second, third)


@pytest.mark.parametrize("eta", [0.25, 0.5, 1.0])
def test_eta_of_2s_scales_the_variance_rate(eta):
    """Of data that are one point, 0: the variance of a step of any length is sigma_s² (1 - e^{-2 eta h}).

    DDIM's convention, k-diffusion's for this solver, is eta'² sigma_s² (1 - e^{-2h}): eta' = sqrt(eta) for short steps.
    """
    schedule = VP()
    denoiser = GaussianDenoiser(0.0, 0.0, schedule)
    for h, close in ((1.0, None), (1e-3, 1e-2)):
        t, s = (node_at(schedule, v) for v in (0.2, 0.2 + h))
        draws = SampleNoise(0, [0])
        x = torch.zeros(1, 5, dtype=torch.float64)
        out = DPMSolverPP2S(1, eta).solve(denoiser, x, [t, s], Condition(), draws)
        z = SampleNoise(0, [0]).between(x, s.angle, t.angle)
        torch.testing.assert_close(out, s.sigma * (-expm1(-2 * eta * h)) ** 0.5 * z)
        if close:
            assert -expm1(-2 * eta * h) == pytest.approx(eta * -expm1(-2 * h), rel=close)
