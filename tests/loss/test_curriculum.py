"""How the second time follows the first, over a run."""

import pytest
import torch

from conftest import SCHEDULES
from oboro.base.errors import UserError
from oboro.loss.curriculum import Discrete, Easy
from oboro.schedule import Karras, Linear

T = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


def rho(schedule, t):
    alpha, sigma = schedule(t)
    return sigma / alpha


def test_the_grid_of_ict_doubles_as_the_paper_says():
    """s0 = 10 and s1 = 1280 are eight values of N(k) - 1, each for an eighth of the run (arXiv:2310.14189, eq. 8)."""
    curriculum, eighth = Discrete(10, 1280, 400_000), 50_000
    seen = [curriculum.intervals(step) for k in range(8) for step in (k * eighth, (k + 1) * eighth - 1)]
    assert seen == [10 * 2**k for k in range(8) for _ in range(2)]
    assert curriculum.intervals(10**9) == curriculum.intervals(None) == 1280


def test_the_grid_of_karras_is_that_of_edm():
    """sigma_i = (sigma_min^(1/7) + i/N (sigma_max^(1/7) - sigma_min^(1/7)))^7; r and t end the interval of t."""
    n, schedule = 18, Karras()
    edges = (0.002 ** (1 / 7) + torch.arange(n + 1, dtype=torch.float64) / n * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    upper, lower = Discrete(n, n)(T, schedule, 0)
    inside = torch.searchsorted(edges, schedule.sigma(T))
    torch.testing.assert_close(schedule.sigma(upper), edges[inside])
    torch.testing.assert_close(schedule.sigma(lower), edges[inside - 1])
    assert Discrete(n, n)(torch.tensor([1e-5, 1.0]), schedule, 0)[1].tolist() == pytest.approx([0, 1 - 1 / n])


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize(("step", "decay"), [(0, 2.0), (24_999, 2.0), (25_000, 4.0), (180_000, 256.0), (None, 256.0)])
def test_the_mapping_of_ect_is_one_of_noise_levels(schedule, step, decay):
    """r = t (1 - n(t) / q^stage) in sigma / alpha, whatever the schedule, and data where that is not positive."""
    t, r = Easy()(T, schedule, step)
    level = rho(schedule, t)
    expected = (level * (1 - (1 + 8 / (1 + torch.exp(level))) / decay)).clamp(min=0)
    reached = expected > rho(schedule, torch.tensor([1e-5], dtype=torch.float64))
    assert torch.equal(t, T) and torch.equal(r > 0, reached)
    torch.testing.assert_close(rho(schedule, r)[reached], expected[reached], rtol=1e-8, atol=1e-12)
    assert (r < t).all()


def test_no_end_and_a_grid_that_shrinks_are_refused():
    for wrong in (lambda: Discrete(10, 20, -1), lambda: Discrete(20, 10, 5), lambda: Easy(q=1.0)):
        with pytest.raises(UserError, match="set "):
            wrong()
    assert Discrete(18, 18, -1)(T, Linear(), 3)[0].max() <= 1
