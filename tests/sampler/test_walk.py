"""Walks over a part of the grid, down and up, against the exact flow."""

from math import log2

import pytest
import torch

from cases import over
from oboro.base.errors import UserError
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition
from oboro.sampler import (
    DATA,
    DDIM,
    Adaptive,
    DPMSolver2,
    DPMSolverPP,
    DPMSolverPP2S,
    Euler,
    Heun,
    LearnedVariance,
    Restart,
    UniPC,
    nodes,
)
from oboro.sampler.grid import Karras as KarrasGrid
from oboro.sampler.grid import Leading, LogSNR, Uniform
from oboro.sampler.node import part
from oboro.schedule import VE, VP, Cosine, Karras, Linear
from sampler.moments import moments
from sampler.test_sampler import well_begun
from sampler.toys import MEAN, STD, Counter, exact_denoisers, gaussian, no_noise

pytestmark = pytest.mark.usefixtures("global_generator_unread")

X = torch.tensor([[-1.3], [0.4], [2.0]], dtype=torch.float64)
each_kind = over(schedule={"linear": Linear(), "vp": VP(), "karras": Karras()})


def at(t):
    return torch.full((3,), t, dtype=torch.float64)


# --- the nodes of a walk


@each_kind
@pytest.mark.parametrize("grid", [Uniform(), LogSNR(), Leading()], ids=lambda g: type(g).__name__)
def test_a_part_is_its_ends_and_what_the_grid_has_between(schedule, grid):
    """In both directions; two walks that meet at a node make the whole."""
    whole = grid(schedule, 12)
    assert part(schedule, whole, 1.0, 0.0) == whole
    for start, stop in ((0.83, 0.37), (0.83, 0.0), (1.0, 0.37)):
        walk = part(schedule, whole, start, stop)
        (first,) = whole[:1] if start == 1 else nodes(schedule, [start])
        inner = [n for n in whole[:-1] if n.t < first.t and (n.t > stop or stop == 0)]
        assert walk == [first, *inner, *(nodes(schedule, [stop]) if stop else [DATA])]
        assert part(schedule, whole, stop, start) == walk[::-1]
    for node in whole[1:-1]:
        if node.t > 0:
            assert part(schedule, whole, 1.0, node.t)[:-1] + part(schedule, whole, node.t, 0.0) == whole
        else:
            assert part(schedule, whole, 1.0, 0.0)[-2] == node  # sigma_0 > 0 is visited, and 0 is the data


def test_a_time_that_went_through_single_precision_is_no_step_of_its_own():
    whole = Uniform()(Linear(), 10)
    for index in range(1, 10):
        start = float(torch.tensor(whole[index].t, dtype=torch.float32))
        assert len(part(Linear(), whole, start, 0.0)) == 11 - index
        assert len(part(Linear(), whole, 1.0, start)) == index + 1


def test_nothing_is_walked_between_equal_times(sampler):
    calls = Counter(gaussian(Linear()))
    assert torch.equal(sampler(calls, X, Condition(), no_noise, 0.4, 0.4), X) and calls.times == []


def test_times_are_from_0_to_1(sampler):
    for start, stop in ((1.2, 0.0), (1.0, -0.1), (float("nan"), 0.0)):
        with pytest.raises(UserError, match="must be times from 0, data, to 1, noise"):
            sampler(gaussian(Linear()), X, Condition(), no_noise, start, stop)


def test_drawn_noise_is_not_taken_back(sampler):
    """``invertible`` says who refuses the way up."""
    if sampler.invertible:
        assert sampler(gaussian(Linear()), X, Condition(), no_noise, 0.2, 0.7).isfinite().all()
    else:
        with pytest.raises(UserError, match=r"draws noise.*way up from t=0.2 to 0.7; choose a sampler without noise"):
            sampler(gaussian(Linear()), X, Condition(), no_noise, 0.2, 0.7)


def test_from_data_to_noise_in_one_step_leads_nowhere(ode_sampler, with_steps):
    with pytest.raises(UserError, match=r"without signal to go up by; raise sampler\.steps"):
        with_steps(ode_sampler, 1)(gaussian(Linear()), X, Condition(), no_noise, 0.0, 1.0)


@each_kind
def test_evaluations_of_a_part_are_as_many_as_announced(sampler, schedule, noise, with_steps):
    sampler = with_steps(sampler, 9)
    ways = [(0.83, 0.0), (1.0, 0.37), (0.8, 0.3), (0.8, 0.79)]
    up = [(0.0, 1.0), (0.0, 0.45), (0.2, 1.0), (0.0, 0.01), (0.99, 1.0)]
    for start, stop in ways + up * sampler.invertible:
        counter = Counter(gaussian(schedule))
        sampler(counter, X, Condition(), noise, start, stop)
        assert len(counter.times) == sampler.evaluations(schedule, start, stop)


# --- down


@each_kind
@pytest.mark.parametrize("split", [2, 4])
@pytest.mark.parametrize(
    "sampler",
    [DDIM(9), DDIM(9, 1.0), Euler(9, 3.0), Heun(9), Heun(9, 3.0), Restart(9), DPMSolver2(9), DPMSolverPP2S(9)],
    ids=lambda s: type(s).__name__,
)
def test_two_parts_of_a_walk_are_the_whole(sampler, schedule, split):
    """At a node of the grid, for methods without a memory, and restarts below it; to the last bit."""
    denoiser = exact_denoisers(schedule)[1]
    x_T, middle = schedule.prior(X), sampler.nodes(schedule)[split].t
    whole = sampler(denoiser, x_T, Condition(), SampleNoise(0, range(3)))
    noise = SampleNoise(0, range(3))
    x_t = sampler(denoiser, x_T, Condition(), noise, 1.0, middle)
    assert torch.equal(sampler(denoiser, x_t, Condition(), noise, middle, 0.0), whole)


@pytest.mark.slow
@each_kind
def test_a_part_converges_to_the_flow_between_its_ends(ode_sampler, schedule, with_steps):
    """From x_t at a time that is on no grid. Solvers with a memory begin with low orders: errors of h² in all."""
    denoiser = exact_denoisers(schedule)[1]
    x_t = X * schedule.sigma(at(0.63))[:, None]
    exact = denoiser.flow(x_t, at(0.63), at(0.21))
    coarse, fine = (
        float((with_steps(ode_sampler, n)(denoiser, x_t, Condition(), no_noise, 0.63, 0.21) - exact).abs().max())
        for n in (200, 400)
    )
    assert fine < (5e-3 if ode_sampler.order == 1 else 3e-4)
    assert log2(coarse / fine) > min(ode_sampler.order, 2) - 0.35


@over(schedule={"linear": Linear(), "vp": VP(), "ve": VE()})
def test_moments_at_the_stop_are_those_of_the_marginal(sde_sampler, schedule, with_steps):
    """Noise from t = 0.7 with the right mean and variance arrives at s = 0.3 with those of x_s, without a draw."""

    class Walk:
        def __call__(self, denoiser, z, cond, noise):
            (t,) = nodes(schedule, [0.7])
            end = float(schedule.sigma(torch.ones((), dtype=torch.float64)))
            std = ((t.alpha * STD) ** 2 + t.sigma**2) ** 0.5
            return with_steps(sde_sampler, 300)(denoiser, t.alpha * MEAN + std * z / end, cond, noise, 0.7, 0.3)

    mean, variance = moments(Walk(), schedule, MEAN, STD)
    (s,) = nodes(schedule, [0.3])
    assert mean == pytest.approx(s.alpha * MEAN, abs=3e-3)
    wrong = 0.04 if sde_sampler.order == 1 or getattr(sde_sampler, "noise_std", 1.0) > 1 else 3e-3
    assert variance == pytest.approx((s.alpha * STD) ** 2 + s.sigma**2, rel=wrong)


def test_restarts_need_the_way_that_they_take():
    """Between rho = 0.06 and 0.3 and nowhere else; a start below 0.3 has none."""
    restart, schedule = Restart(18), Karras()
    rho = {node.t: node.ratio for node in restart.nodes(schedule)}
    below = max(t for t, v in rho.items() if v < 0.25)
    assert restart.evaluations(schedule, 1.0, 0.0) > Heun(18).evaluations(schedule, 1.0, 0.0)
    assert restart.evaluations(schedule, below, 0.0) == Heun(18).evaluations(schedule, below, 0.0)
    x = X * 0.2
    down = restart(gaussian(schedule), x, Condition(), no_noise, below, 0.0)
    assert torch.equal(down, Heun(18)(gaussian(schedule), x, Condition(), no_noise, below, 0.0))


@each_kind
@pytest.mark.parametrize("start, stop", [(0.7, 0.25), (0.25, 0.7), (0.98, 0.2), (0.2, 0.98)])
def test_adaptive_steps_meet_the_flow_between_any_ends(schedule, start, stop):
    denoiser = exact_denoisers(schedule)[1]
    x_t = X * schedule.sigma(at(start))[:, None]
    exact = denoiser.flow(x_t, at(start), at(stop))
    scale = float(schedule.sigma(at(stop))[0])
    loose, tight = (
        float((Adaptive(4000, tol, tol / 10)(denoiser, x_t, Condition(), no_noise, start, stop) - exact).abs().max())
        / scale
        for tol in (1e-2, 1e-4)
    )
    assert tight < 3e-3 and tight < 0.2 * loose


def test_adaptive_steps_end_in_data_from_a_start_next_to_it():
    """Where lambda is beyond its ``high`` already, x̂0 is all that is left to do."""
    denoiser, x_t = gaussian(Linear()), X
    out = Adaptive()(denoiser, x_t, Condition(), no_noise, 1e-3, 0.0)
    torch.testing.assert_close(out, denoiser(x_t, at(1e-3), Condition()))


# --- up


@pytest.mark.slow
@pytest.mark.parametrize("schedule, end", [(Linear(), 0.8), (VP(), 0.5)], ids=["linear", "vp"])
def test_order_of_convergence_upwards_is_as_declared(ode_sampler, schedule, end):
    """From t = 0.05, against the exact probability flow of a mixture; first steps as in ``well_begun``."""
    denoiser = exact_denoisers(schedule)[1]
    x = torch.tensor([[-0.9], [0.4], [1.1]], dtype=torch.float64)
    exact = denoiser.flow(x, at(0.05), at(end))

    def rising(steps):
        return nodes(schedule, [0.05 + (end - 0.05) / 0.9 * (0.95 - node.t) for node in well_begun(schedule, steps)])

    coarse, fine = (
        float((ode_sampler.solve(denoiser, x, rising(n), Condition(), no_noise) - exact).abs().max())
        for n in (160, 320)
    )
    assert log2(coarse / fine) > ode_sampler.order - 0.55  # more where two errors cancel


@pytest.mark.slow
@over(schedule={"linear": Linear(), "cosine": Cosine(), "vp": VP(), "karras": Karras()})
def test_data_go_up_to_their_noise(ode_sampler, schedule, with_steps):
    """From exact data, where eps̃ is 0/0, to t = 0.9; the flow begins at sigma_0, or at a time next to 0."""
    denoiser, begin = gaussian(schedule), 0.0 if schedule.sigma(torch.zeros(())) > 0 else 1e-9
    exact = denoiser.flow(X * schedule.alpha(at(begin))[:, None], at(begin), at(0.9))
    few, many = (
        float(
            (with_steps(ode_sampler, n)(denoiser, X, Condition(), no_noise, 0.0, 0.9) - exact).abs().max()
            / exact.abs().max()
        )
        for n in (40, 320)
    )
    assert many < 0.02 and many < few / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule, grid",
    [(Linear(), Uniform()), (Cosine(), KarrasGrid()), (VP(), Leading()), (Karras(), Uniform())],
    ids=lambda part: type(part).__name__,
)
def test_up_and_down_again_returns(ode_sampler, schedule, grid, with_steps):
    """To t = 1 and back, the closer the more steps; also where the grid begins below 1 and where no signal is left."""

    def missed(steps):
        sampler, denoiser = with_steps(ode_sampler, steps), gaussian(schedule)
        sampler.grid = grid
        x_T = sampler(denoiser, X, Condition(), no_noise, 0.0, 1.0)
        assert (x_T / schedule.sigma(at(1.0))[:, None]).std() > 0.5  # noise, and not nothing
        return float((sampler(denoiser, x_T, Condition(), no_noise) - X).abs().max())

    few, many = missed(20), missed(160)
    assert many < 0.08 and many < few / 2


def test_a_step_down_undoes_a_step_up_where_the_data_are_one_point():
    """D constant: every solver is exact in both directions."""

    class Point:
        schedule = Linear()

        def __call__(self, x_t, t, cond):
            return torch.full_like(x_t, 0.3)

        def towards(self, alpha, sigma):
            return self

    for sampler in (DDIM(7), Heun(7), DPMSolverPP(7), UniPC(7)):
        up = sampler(Point(), X, Condition(), no_noise, 0.2, 0.9)
        torch.testing.assert_close(sampler(Point(), up, Condition(), no_noise, 0.9, 0.2), X, rtol=1e-11, atol=1e-11)


def test_the_first_step_up_is_the_last_step_down_solved_for_its_start():
    """D(x_s, s) = x, by iteration from x_s = alpha_s x; ``Sampler`` takes one, and the law is its fixed point."""
    schedule, denoiser = VP(), exact_denoisers(VP())[1]
    sampler = DDIM(50)
    s = sampler.nodes(schedule)[-2]
    one = sampler(denoiser, X, Condition(), no_noise, 0.0, s.t)
    torch.testing.assert_close(one, s.alpha * (2 * X - denoiser(s.alpha * X, at(s.t), Condition())))
    x_s = one
    for _ in range(200):
        x_s = x_s + 0.5 * s.alpha * (X - denoiser(x_s, at(s.t), Condition()))
    torch.testing.assert_close(denoiser(x_s, at(s.t), Condition()), X, rtol=1e-9, atol=1e-9)
    assert (one - x_s).abs().max() < 0.2 * (s.alpha * X - x_s).abs().max()


def test_learned_variances_are_those_of_the_steps_of_the_part():
    """Two walks that meet at a node have the same table, so the same moments, as one."""
    schedule, sampler = Linear(), LearnedVariance(10)
    whole = moments(sampler, schedule, MEAN, STD)

    class Parts:
        def __call__(self, denoiser, x, cond, noise):
            middle = sampler.nodes(schedule)[4].t
            return sampler(denoiser, sampler(denoiser, x, cond, noise, 1.0, middle), cond, noise, middle)

    assert moments(Parts(), schedule, MEAN, STD) == pytest.approx(whole, rel=1e-12)
