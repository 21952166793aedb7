from itertools import pairwise
from math import inf, sqrt

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_utils import AysSchedules
from omegaconf import OmegaConf

from cases import over
from conftest import GRIDS, SCHEDULES
from oboro.base.errors import UserError
from oboro.sampler import DATA, nodes
from oboro.sampler.grid import (
    Karras,
    Leading,
    Linspace,
    LogSNR,
    Quadratic,
    Sigmas,
    Times,
    Trailing,
    Uniform,
    UniformToData,
)
from oboro.schedule import DDPM, VE, Cosine, Linear, ScaledLinear
from oboro.schedule import Karras as KarrasSchedule

pytestmark = pytest.mark.usefixtures("global_generator_unread")

AYS = {"sd": "StableDiffusion", "sdxl": "StableDiffusionXL", "svd": "StableDiffusionVideo"}


def ratios(schedule):
    """sigma / alpha at both ends of a schedule."""
    return [node.ratio for node in nodes(schedule, [0.0, 1.0])]


def listed(sigmas, steps):
    """The list at ``steps`` places from its first to, without, its last value; log-linear."""
    return np.exp(np.interp(np.arange(steps) / steps, np.linspace(0, 1, len(sigmas)), np.log(sigmas)))


def levels(schedule, grid, steps):
    return [node.ratio for node in grid(schedule, steps)[:-1]]


# --- laws of all grids


def coincide(grid, schedule, steps) -> bool:
    """Whether two levels of a list lie beyond one end of the schedule."""
    low, high = ratios(schedule)
    rho = listed(grid.sigmas, steps) if type(grid) is Sigmas else np.array([])
    return (rho >= high).sum() > 1 or (rho <= low).sum() > 1


@over(
    grid=GRIDS,
    schedule=SCHEDULES,
    steps=[1, 2, 5, 20],
    where=lambda grid, schedule, steps: not coincide(grid, schedule, steps),
)
def test_times_decrease_and_end_in_data(grid, schedule, steps):
    *found, last = grid(schedule, steps)
    assert last == DATA and len(found) == steps
    assert 0 <= found[-1].t <= found[0].t <= 1
    assert all(s.t < t.t and s.ratio < t.ratio for t, s in pairwise(found))
    assert found == nodes(schedule, [node.t for node in found])


@over(schedule=SCHEDULES, steps=[1, 2, 5])
def test_steps_into_data_are_equal_on_every_schedule(schedule, steps):
    assert [node.t for node in UniformToData()(schedule, steps)] == [*(1 - i / steps for i in range(steps)), 0]
    if nodes(schedule, [0.0])[0].sigma == 0:
        assert UniformToData()(schedule, steps) == Uniform()(schedule, steps)


@over(grid=GRIDS, schedule=SCHEDULES, steps=[1, 2, 5, 20], where=coincide)
def test_two_levels_beyond_one_end_of_the_schedule_are_a_mistake_of_the_user(grid, schedule, steps):
    with pytest.raises(UserError, match=r"lower sampler\.steps or choose another"):
        grid(schedule, steps)


@pytest.mark.parametrize("spacing", [Leading, Trailing, Linspace])
def test_a_table_has_no_more_steps_than_entries(spacing):
    assert [node.t for node in spacing(count=4)(DDPM(steps=4), 4)] == [1, 0.75, 0.5, 0.25, 0]
    with pytest.raises(UserError, match="has no 5 different times on DDPM"):
        spacing(count=4)(DDPM(steps=4), 5)


# --- spacings of a table


@over(spacing=["leading", "trailing", "linspace"], offset=[0, 1], steps=[7, 10, 20, 50])
def test_spacings_visit_the_indices_that_diffusers_visits(spacing, offset, steps):
    """diffusers has an offset in its leading spacing alone."""
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(steps)
    grid = {"leading": Leading(offset=offset), "trailing": Trailing(), "linspace": Linspace()}[spacing]
    schedule = DDPM()
    times = torch.tensor(grid.times(schedule, steps), dtype=torch.float64)
    assert schedule.index(times).tolist() == scheduler.timesteps.tolist()
    torch.testing.assert_close(times, schedule.t_of_index(scheduler.timesteps), rtol=0, atol=1e-15)


def test_the_quadratic_grid_is_uniform_in_the_root_of_t():
    assert [sqrt(t) for t in Quadratic().times(Linear(), 10)] == pytest.approx([1 - i / 10 for i in range(10)])
    assert Quadratic().times(VE(), 5) == [1, 0.75**2, 0.5**2, 0.25**2, 0]


# --- levels of noise


@over(
    grid={
        "karras": Karras(0.02, 10),
        "karras of rho 3": Karras(0.1, 6, 3),
        "log_snr": LogSNR(-4, 6),
        "sigmas": Sigmas([9.0, 3.0, 0.5, 0.05]),
    }
)
def test_levels_are_the_same_on_every_schedule_that_covers_them(grid, schedule):
    """Within 1e-6: near the end of a schedule t has few digits left for the level."""
    low, high = ratios(schedule)
    wanted = np.array(levels(Cosine(), grid, 3))
    if low <= wanted.min() and wanted.max() <= high:
        np.testing.assert_allclose(levels(schedule, grid, 3), wanted, rtol=1e-6)
    else:
        np.testing.assert_allclose(levels(schedule, grid, 3)[0], min(wanted[0], high), rtol=1e-6)


def test_most_schedules_cover_common_levels(schedules):
    assert sum(low <= 0.02 and high >= 10 for low, high in map(ratios, schedules.values())) >= 10


@over(rho=[3.0, 7.0])
def test_the_grid_of_karras_is_equation_5_of_edm(rho):
    n, low, high = 18, 0.002, 80.0
    wanted = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
    for schedule in (Cosine(), Linear(), KarrasSchedule(0.001, 100)):
        assert levels(schedule, Karras(low, high, rho), n) == pytest.approx(wanted, rel=1e-9)


@over(rho=[3.0, 7.0], steps=[1, 2, 18])
def test_the_grid_of_karras_is_uniform_on_the_schedule_of_karras(rho, steps):
    schedule = KarrasSchedule(0.01, 50, rho)
    found, uniform = Karras(0.01, 50, rho).times(schedule, steps), Uniform().times(schedule, steps)
    assert found == pytest.approx(uniform, abs=1e-12)


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@over(name=["karras", "exponential"], steps=[7, 20])
def test_levels_are_those_of_diffusers_between_the_ends_of_its_table(name, steps):
    """Its table in float32 is off by 2e-5, so it gets ours."""
    grid = {"karras": Karras, "exponential": LogSNR}[name]
    schedule, betas = ScaledLinear(), {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = diffusers.EulerDiscreteScheduler(**betas, **{f"use_{name}_sigmas": True})
    scheduler.alphas_cumprod = schedule.alpha(schedule.t_of_index(torch.arange(1000))) ** 2
    scheduler.set_timesteps(steps)
    first, last = nodes(schedule, [0.001, 1.0])
    ends = {"karras": (first.ratio, last.ratio), "exponential": (2 * last.half_log_snr, 2 * first.half_log_snr)}[name]
    assert levels(schedule, grid(*ends), steps) == pytest.approx(scheduler.sigmas[:-1].tolist(), rel=1e-6)


def test_the_grid_of_log_snr_has_equal_steps_in_log_snr(schedule):
    low, high = ratios(schedule)
    found = np.array([2 * node.half_log_snr for node in LogSNR(-6, 5)(schedule, 12)[:-1]])
    first, last = max(-6, -2 * np.log(high)), min(5, -2 * np.log(low) if low else inf)
    np.testing.assert_allclose(found, np.linspace(first, last, 12), rtol=0, atol=1e-6)


# --- lists


@pytest.mark.parametrize("name", AYS)
def test_align_your_steps_is_as_published(name, conf):
    """diffusers has 0 in place of the last level, which only says where an interpolation ends: both end in data."""
    sigmas = list(OmegaConf.load(conf / f"sampler/grid/sigmas_ays_{name}.yaml").sigmas)
    published = AysSchedules[f"{AYS[name]}Sigmas"]
    assert sigmas[:-1] == published[:-1] and published[-1] == 0
    assert levels(KarrasSchedule(0.001, 1000), Sigmas(sigmas), 10) == pytest.approx(published[:-1], rel=1e-9)


@over(steps=[1, 4, 10, 25])
def test_levels_of_a_list_are_interpolated_in_their_logarithm(steps):
    sigmas = [40.0, 5.0, 1.0, 0.3, 0.01]
    assert levels(Linear(), Sigmas(sigmas), steps) == pytest.approx(listed(sigmas, steps), rel=1e-9)
    assert levels(Linear(), Sigmas(sigmas), 4) == pytest.approx(sigmas[:-1], rel=1e-12)


@over(steps=[1, 3, 5, 12])
def test_times_of_a_list_are_interpolated_linearly(steps):
    times = [1.0, 0.7, 0.2, 0.05]
    wanted = np.interp(np.arange(steps) / steps, np.linspace(0, 1, 4), times)
    assert Times(times).times(Linear(), steps) == pytest.approx(wanted, abs=1e-14)
    assert Times(times).times(Linear(), 3) == times[:-1]


@over(sigmas=[[], [1.0], [1.0, 0.0], [1.0, -1.0], [1.0, 2.0], [3.0, 1.0, 1.0], [5.0, 1.0, 3.0]])
def test_levels_that_do_not_fall_to_a_positive_one_are_a_mistake_of_the_user(sigmas):
    with pytest.raises(UserError, match="positive levels; change it"):
        Sigmas(sigmas)


@over(times=[[], [1.0], [0.5, 0.6], [1.0, 0.5, 0.5], [1.1, 0.0], [1.0, -0.1], [1.0, 0.2, 0.3]])
def test_times_that_do_not_fall_within_0_and_1_are_a_mistake_of_the_user(times):
    with pytest.raises(UserError, match=r"times in \[0, 1\]; change it"):
        Times(times)
