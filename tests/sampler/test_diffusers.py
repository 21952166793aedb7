"""Whole trajectories against the schedulers of diffusers: every network input and the end, within 1e-5.

Both sides get the same network, start, noise and coefficients. diffusers rounds its tables to float32, so it is handed
the table in float64 after a check that its own is the same but for that rounding. Euler, the ancestral Euler, the
multistep DPM-Solver++ and the flow still round the state or the noise to float32, which the tolerance covers.
"""

from itertools import pairwise

import diffusers
import pytest
import torch

from oboro.condition import Condition
from oboro.denoiser.exact import MixtureDenoiser
from oboro.sampler import (
    DATA,
    DDIM,
    DEIS,
    LMS,
    PNDM,
    DPMSolver2,
    DPMSolverPP,
    DPMSolverPP2S,
    Euler,
    Heun,
    UniPC,
    nodes,
)
from oboro.sampler.grid import Leading, LogSNR, Trailing
from oboro.schedule import DDPM, Linear, ScaledLinear

TABLES = {
    "linear": (DDPM(), {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}),
    "scaled": (ScaledLinear(), {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}),
}
INDICES = torch.arange(1000)

# diffusers reads tensors through numpy, in ways that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture(params=TABLES)
def table(request):
    """Our schedule, and the same table in diffusers' words."""
    return TABLES[request.param]


class Network:
    """The exact denoiser of two wide peaks, nonlinear in x; keeps what it is asked."""

    def __init__(self, schedule):
        weights, means = torch.tensor([[0.3, 0.7], [-0.8, 0.6]], dtype=torch.float64)
        self.exact = MixtureDenoiser(weights, means, 0.4, schedule)
        self.schedule = schedule
        self.times, self.inputs = [], []

    def __call__(self, x_t, t, cond):
        self.times.append(t[0].item())
        self.inputs.append(x_t)
        return self.exact(x_t, t, cond)

    def towards(self, alpha, sigma):
        return self

    def outputs(self, x_t, t):
        """(x̂0, eps̃) at one time."""
        x_t = x_t.double()
        alpha, sigma = self.schedule(torch.tensor(t, dtype=torch.float64))
        x0 = self(x_t, torch.full((len(x_t),), t, dtype=torch.float64), Condition())
        return x0, (x_t - alpha * x0) / sigma


class Replay:
    """The numbers that a generator of the same seed gives to diffusers."""

    def __init__(self, dtype):
        self.generator = torch.Generator().manual_seed(3)
        self.dtype = dtype

    def __call__(self, like):
        return torch.randn(like.shape, generator=self.generator, dtype=self.dtype).to(like)

    def between(self, like, a, b):
        return self(like)


def configured(cls, table, steps, **config):
    """A scheduler of diffusers, ready for ``steps`` steps with the table in float64."""
    schedule, betas = table
    scheduler = cls(**betas, **config)
    exact = schedule.alpha(schedule.t_of_index(INDICES)) ** 2
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), exact, rtol=2e-5, atol=0)
    scheduler.alphas_cumprod = exact
    scheduler.set_timesteps(steps)
    return scheduler


def with_sigmas(scheduler, sigmas):
    """``scheduler`` with its sigma / alpha in float64 instead of float32."""
    sigmas = torch.tensor(sigmas, dtype=torch.float64)
    torch.testing.assert_close(scheduler.sigmas.double(), sigmas, rtol=1e-6, atol=0)
    scheduler.sigmas = sigmas
    return scheduler


def ours(sampler, schedule, grid, x, noise=None):
    network = Network(schedule)
    end = sampler.solve(network, x, grid, Condition(), noise)
    return network.times, [*network.inputs, end]


def theirs(scheduler, schedule, times, x, off_table=1e-6, **arguments):
    """Inputs of the network at ``times``, which are the indices of diffusers within ``off_table``, and the end."""
    network = Network(schedule)
    for t, time in zip(scheduler.timesteps, times, strict=True):
        assert abs(float(t) - (1000 * time - 1)) <= off_table
        _, eps = network.outputs(scheduler.scale_model_input(x, t), time)
        x = scheduler.step(eps, t, x, **arguments).prev_sample
    return [*network.inputs, x.double()]


def assert_same(a, b, tolerance=1e-5):
    for left, right in zip(a, b, strict=True):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def seeded():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", [Leading(), Leading(offset=1), Trailing()])
def test_ddim_is_ddim(table, spacing, eta, normal):
    schedule, x = table[0], normal(2, 3, 2)
    config = {"timestep_spacing": type(spacing).__name__.lower(), "steps_offset": getattr(spacing, "offset", 0)}
    scheduler = configured(diffusers.DDIMScheduler, table, 10, clip_sample=False, **config)
    times, mine = ours(DDIM(eta=eta), schedule, spacing(schedule, 10), x, Replay(torch.float64))
    assert_same(mine, theirs(scheduler, schedule, times, x, eta=eta, generator=seeded()), 1e-10)


def test_ddim_upwards_is_the_inverse_ddim(table, normal):
    """Steps from data on the same grid, given the same eps̃; diffusers takes eps̃ of x_t at the time of the next node."""
    schedule, sampler, x = table[0], DDIM(10, grid=Leading()), normal(4, 3)
    scheduler, network = configured(diffusers.DDIMInverseScheduler, table, 10, clip_sample=False), Network(schedule)
    end = sampler(network, x, Condition(), None, 0.0, sampler.nodes(schedule)[0].t)
    points = [*zip(network.times, network.inputs, strict=True)]
    for t, (time, input) in zip(scheduler.timesteps, points, strict=True):
        x = scheduler.step(network.outputs(input, time)[1], t, x).prev_sample
    torch.testing.assert_close(end, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_of_eta_1_is_ddpm(table, steps, normal):
    schedule, x = table[0], normal(2, 3, 2)
    scheduler = configured(diffusers.DDPMScheduler, table, steps, clip_sample=False)
    times, mine = ours(DDIM(eta=1.0), schedule, Leading()(schedule, steps), x, Replay(torch.float64))
    assert_same(mine, theirs(scheduler, schedule, times, x, generator=seeded()), 1e-10)


def in_ratio_space(cls, sampler, table, x, off_table=1e-6, noise=None, **arguments):
    """Both trajectories where diffusers integrates x / alpha over sigma / alpha; ours are its inputs of the network."""
    schedule, steps = table[0], 12
    grid = Leading(offset=1)(schedule, steps)
    scheduler = configured(cls, table, steps, timestep_spacing="leading", steps_offset=1)
    ratios = [node.ratio for node in grid]
    twice = [r for r in ratios[1:-1] for _ in range(2)]
    if len(scheduler.sigmas) > len(ratios):  # two evaluations a step
        with_sigmas(scheduler, [ratios[0], *twice, *ratios[-1:] * (len(scheduler.sigmas) - 1 - len(twice))])
    else:
        with_sigmas(scheduler, ratios)
    times, mine = ours(sampler, schedule, grid, x, noise)
    return mine, theirs(scheduler, schedule, times, x / grid[0].alpha, off_table, **arguments)


def test_euler_is_euler(table, normal):
    assert_same(*in_ratio_space(diffusers.EulerDiscreteScheduler, Euler(), table, normal(2, 3, 2)))


def test_ddim_of_eta_1_is_the_ancestral_euler(table, normal):
    scheduler, noise = diffusers.EulerAncestralDiscreteScheduler, Replay(torch.float64)
    x = normal(2, 3, 2)
    assert_same(*in_ratio_space(scheduler, DDIM(eta=1.0), table, x, noise=noise, generator=seeded()))


def test_heun_is_heun(table, normal):
    assert_same(*in_ratio_space(diffusers.HeunDiscreteScheduler, Heun(), table, normal(2, 3, 2)), 1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_is_lms(table, order, normal):
    x = normal(2, 3, 2)
    assert_same(*in_ratio_space(diffusers.LMSDiscreteScheduler, LMS(solver_order=order), table, x, order=order), 1e-10)


def test_dpm_solver_2_is_kdpm2(table, normal):
    """diffusers has the middle of a step in float32, and its time off by what linear interpolation costs."""
    x = normal(2, 3, 2)
    assert_same(*in_ratio_space(diffusers.KDPM2DiscreteScheduler, DPMSolver2(), table, x, off_table=0.1))


def multistep(cls, table, steps, last, **config):
    """Grid and scheduler with trailing spacing, down to data (``last`` None) or to the first index of the table."""
    schedule = table[0]
    grid = [*Trailing()(schedule, steps)[:-1], last]
    scheduler = configured(cls, table, steps, timestep_spacing="trailing", **config)
    return grid, with_sigmas(scheduler, [node.ratio for node in grid])


SDE = "sde-dpmsolver++"


@pytest.mark.parametrize(
    "order, algorithm", [(1, "dpmsolver++"), (2, "dpmsolver++"), (3, "dpmsolver++"), (1, SDE), (2, SDE)]
)
@pytest.mark.parametrize("steps", [10, 20])
def test_dpm_solver_pp_is_the_multistep_solver(table, order, algorithm, steps, normal):
    schedule, x, eta = table[0], normal(2, 3, 2), float(algorithm == SDE)
    config = {"solver_order": order, "algorithm_type": algorithm, "lower_order_final": False}
    grid, scheduler = multistep(diffusers.DPMSolverMultistepScheduler, table, steps, DATA, **config)
    times, mine = ours(DPMSolverPP(solver_order=order, eta=eta), schedule, grid, x, Replay(torch.float32))
    assert_same(mine, theirs(scheduler, schedule, times, x, generator=seeded()))


def test_the_sde_of_third_order_has_the_second_derivative_with_the_sign_that_the_ode_has(table, normal):
    """The weight of D2 is (1 - e^{-k}) / k² - 1 / k + 1/2, as in k-diffusion; for the SDE, diffusers has -1/2 there.

    So the two part at the third step, by alpha_s D2.
    """
    schedule, x = table[0], normal(2, 3, 2)
    config = {"solver_order": 3, "algorithm_type": SDE, "lower_order_final": False}
    grid, scheduler = multistep(diffusers.DPMSolverMultistepScheduler, table, 10, DATA, **config)
    times, mine = ours(DPMSolverPP(solver_order=3, eta=1.0), schedule, grid, x, Replay(torch.float32))
    other = theirs(scheduler, schedule, times, x, generator=seeded())
    assert_same(mine[:3], other[:3])
    network = Network(schedule)
    d_2, d_1, d_0 = (network.outputs(seen, t)[0] for seen, t in zip(mine[:3], times[:3], strict=True))
    h_1, h_0, h = (s.half_log_snr - t.half_log_snr for t, s in pairwise(grid[:4]))
    bend = h / (h_0 + h_1) * (h / h_0 * (d_0 - d_1) - h / h_1 * (d_1 - d_2))
    torch.testing.assert_close(mine[3] - other[3], grid[3].alpha * bend, rtol=0, atol=1e-5)
    assert (mine[-1] - other[-1]).abs().max() > 1e-2


def test_dpm_solver_pp_keeps_its_order_before_the_last_step(table, normal):
    """Below 15 steps diffusers takes the last but one step of 3M as 2M, for large guidance; ours only the last one."""
    schedule, x = table[0], normal(2, 3, 2)
    grid, scheduler = multistep(diffusers.DPMSolverMultistepScheduler, table, 10, DATA, solver_order=3)
    times, mine = ours(DPMSolverPP(solver_order=3), schedule, grid, x)
    other = theirs(scheduler, schedule, times, x)
    assert_same(mine[:9], other[:9])
    assert 1e-3 < (mine[-1] - other[-1]).abs().max() < 0.1


def test_dpm_solver_pp_2s_is_the_singlestep_solver(table, normal):
    """diffusers puts the middles into the grid: 2 k + 1 nodes, geometric in sigma / alpha, are k steps and the last."""
    schedule, x = table[0], normal(2, 3, 2)
    config = {"use_exponential_sigmas": True, "lower_order_final": True, "final_sigmas_type": "zero"}
    scheduler = configured(diffusers.DPMSolverSinglestepScheduler, table, 17, **config)
    ends = nodes(schedule, [1.0, 0.001])
    grid = LogSNR(2 * ends[0].half_log_snr, 2 * ends[1].half_log_snr)(schedule, 17)
    with_sigmas(scheduler, [node.ratio for node in grid])
    times, mine = ours(DPMSolverPP2S(), schedule, [*grid[:-1:2], DATA], x)
    assert_same(mine, theirs(scheduler, schedule, times, x, off_table=1.0), 1e-10)


@pytest.mark.parametrize("b1", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [6, 20])
def test_unipc_is_unipc(table, order, b1, steps, normal):
    """To the first index of the table, where the order need not drop."""
    schedule, x = table[0], normal(2, 3, 2)
    config = {"solver_order": order, "solver_type": "bh1" if b1 else "bh2", "final_sigmas_type": "sigma_min"}
    (first,) = nodes(schedule, [0.001])
    cls = diffusers.UniPCMultistepScheduler
    grid, scheduler = multistep(cls, table, steps, first, lower_order_final=False, **config)
    times, mine = ours(UniPC(solver_order=order, b1=b1), schedule, grid, x)
    assert_same(mine, theirs(scheduler, schedule, times, x), 1e-8)


def test_unipc_of_order_2_ends_in_data_as_unipc_does(table, normal):
    """With B(h) = h diffusers has NaN in a step into data, as h is infinite there."""
    schedule, x = table[0], normal(2, 3, 2)
    grid, scheduler = multistep(diffusers.UniPCMultistepScheduler, table, 10, DATA, solver_order=2)
    times, mine = ours(UniPC(solver_order=2), schedule, grid, x)
    assert_same(mine, theirs(scheduler, schedule, times, x), 1e-8)


def test_unipc_keeps_its_order_before_the_last_step(table, normal):
    """diffusers lowers the order by one a step towards the end, down to 1; ours is lower in the last step alone."""
    schedule, x = table[0], normal(2, 3, 2)
    grid, scheduler = multistep(diffusers.UniPCMultistepScheduler, table, 10, DATA, solver_order=3)
    times, mine = ours(UniPC(solver_order=3), schedule, grid, x)
    other = theirs(scheduler, schedule, times, x)
    assert_same(mine[:9], other[:9], 1e-8)
    assert 1e-3 < (mine[-1] - other[-1]).abs().max() < 0.1


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [10, 20])
def test_deis_is_deis(table, order, steps, normal):
    """diffusers stops at the first index of the table and leaves its noise in the sample."""
    schedule, x = table[0], normal(2, 3, 2)
    (first,) = nodes(schedule, [0.001])
    config = {"solver_order": order, "lower_order_final": False}
    grid, scheduler = multistep(diffusers.DEISMultistepScheduler, table, steps, first, **config)
    times, mine = ours(DEIS(solver_order=order), schedule, grid, x)
    assert_same(mine, theirs(scheduler, schedule, times, x), 1e-8)


def test_deis_ends_in_data_and_not_in_the_noise_of_the_first_index(table, normal):
    """Ours takes the last step as DDIM's into data, theirs of lower order to the first index of the table."""
    schedule, x = table[0], normal(2, 3, 2)
    (first,) = nodes(schedule, [0.001])
    grid, scheduler = multistep(diffusers.DEISMultistepScheduler, table, 20, first, solver_order=3)
    times, mine = ours(DEIS(solver_order=3), schedule, [*grid[:-1], DATA], x)
    other = theirs(scheduler, schedule, times, x)
    assert_same(mine[:-1], other[:-1], 1e-8)
    assert 1e-2 < (mine[-1] - other[-1]).abs().max() < 0.2


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_pndm_is_pndm(table, steps, normal):
    schedule, x = table[0], normal(2, 3, 2)
    config = {"skip_prk_steps": False, "set_alpha_to_one": True}
    scheduler = configured(diffusers.PNDMScheduler, table, steps, **config)
    times, mine = ours(PNDM(), schedule, Leading()(schedule, steps), x)
    assert_same(mine, theirs(scheduler, schedule, times, x), 1e-9)


def test_pndm_ends_in_data_where_diffusers_ends_in_the_noise_of_the_first_index(table, normal):
    """Unless set_alpha_to_one, diffusers takes the last step to the first index of the table."""
    schedule, x = table[0], normal(2, 3, 2)
    scheduler = configured(diffusers.PNDMScheduler, table, 10, skip_prk_steps=False, steps_offset=1)
    times, mine = ours(PNDM(), schedule, Leading(offset=1)(schedule, 10), x)
    other = theirs(scheduler, schedule, times, x)
    assert_same(mine[:-1], other[:-1], 1e-9)
    assert 1e-4 < (mine[-1] - other[-1]).abs().max() < 0.1


def test_pndm_halves_steps_exactly(table, normal):
    """Half of 125 indices is 62 in diffusers; ours evaluates between two of them, as schedules are continuous."""
    schedule, x = table[0], normal(2, 3, 2)
    config = {"skip_prk_steps": False, "set_alpha_to_one": True}
    scheduler = configured(diffusers.PNDMScheduler, table, 8, **config)
    times, mine = ours(PNDM(), schedule, Leading()(schedule, 8), x)
    # A network that is asked at the indices of diffusers, which are off by up to a half.
    rounded = schedule.t_of_index(scheduler.timesteps).tolist()
    assert max(abs(a - b) for a, b in zip(times, rounded, strict=True)) == pytest.approx(0.5 / 1000)
    other = theirs(scheduler, schedule, rounded, x)
    assert 1e-5 < (mine[-1] - other[-1]).abs().max() < 1e-2


def test_ddim_of_endless_eta_is_lcm(table, normal):
    """LCM mixes c_skip x_t into x̂0, with c_skip = 0.25 / ((10 i)² + 0.25) at index i: nothing for a large scaling."""
    schedule, x = table[0], normal(2, 3, 2)
    for scaling, tolerance in [(1e6, 1e-10), (10.0, 1e-6)]:
        scheduler = configured(diffusers.LCMScheduler, table, 4, timestep_scaling=scaling)
        grid = [*nodes(schedule, schedule.t_of_index(scheduler.timesteps).tolist()), DATA]
        times, mine = ours(DDIM(eta=float("inf")), schedule, grid, x, Replay(torch.float64))
        assert_same(mine, theirs(scheduler, schedule, times, x, generator=seeded()), tolerance)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ddim_on_the_linear_schedule_is_the_flow_of_euler(shift, normal):
    schedule, x, network = Linear(), normal(2, 3, 2), Network(Linear())
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(10)
    grid = nodes(schedule, scheduler.sigmas.tolist())[:-1]
    times, mine = ours(DDIM(), schedule, [*grid, DATA], x)
    state = x
    for t, time in zip(scheduler.timesteps, times, strict=True):
        assert abs(float(t) / 1000 - time) < 1e-6
        x0, eps = network.outputs(state, time)
        state = scheduler.step(eps - x0, t, state).prev_sample
    assert_same(mine, [*network.inputs, state.double()])
