import pytest
import torch

from oboro.condition import Condition
from oboro.sampler import Heun, Restart
from oboro.sampler.grid import Karras as Karras_grid
from oboro.schedule import Karras
from sampler.moments import moments
from sampler.toys import MEAN, STD, gaussian, no_noise

pytestmark = pytest.mark.usefixtures("global_generator_unread")


def test_restart_without_repeats_is_heun(schedule, normal):
    x, denoiser = schedule.prior(normal(3, 2)), gaussian(schedule)
    assert torch.equal(
        Restart(9, repeats=0)(denoiser, x, Condition(), no_noise), Heun(9)(denoiser, x, Condition(), no_noise)
    )


def test_restart_contracts_an_error_made_on_the_way():
    """From noise 30 % too wide: a way back and down leaves of it what the data share in the noise it goes back to."""
    schedule = Karras()

    def std(repeats):
        impulse = moments(Wide(Restart(60, repeats, 30, 0.05, 5.0, Karras_grid(0.002, 80.0))), schedule, MEAN, STD)
        return impulse[1] ** 0.5

    before, once, twice = (abs(std(k) / STD - 1) for k in (0, 1, 2))
    assert before > 0.25 and once < 0.05 * before and twice < once


class Wide:
    """A sampler that starts from 1.3 times the noise."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __call__(self, denoiser, x_T, cond, noise):
        return self.sampler(denoiser, 1.3 * x_T, cond, noise)
