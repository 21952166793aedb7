from math import cos, exp, pi, prod

import pytest
import torch

from oboro.base.errors import UserError
from oboro.schedule import DDPM, VP, DiscreteCosine, ScaledLinear

pytestmark = pytest.mark.usefixtures("global_generator_unread")

TABLES = [DDPM(), ScaledLinear(), DiscreteCosine(), DDPM(0.01, 0.3, steps=7), DiscreteCosine(steps=50)]
each_table = pytest.mark.parametrize("table", TABLES, ids=lambda s: f"{type(s).__name__}_{s.steps}")


def abar(table):
    """The cumulative products of 1 - beta, multiplied out."""
    betas = table.betas(table.steps)
    return [prod(1 - beta for beta in betas[: i + 1]) for i in range(len(betas))]


@each_table
def test_the_points_of_the_table_are_met(table):
    """x at index i has the signal sqrt(abar_i) and the noise sqrt(1 - abar_i), each to the last digits."""
    t, expected = table.t_of_index(torch.arange(table.steps)), torch.tensor(abar(table), dtype=torch.float64)
    alpha, sigma = table(t)
    torch.testing.assert_close(alpha, expected.sqrt(), rtol=1e-10, atol=0)
    torch.testing.assert_close(sigma, (1 - expected).sqrt(), rtol=1e-11, atol=0)
    assert t[-1] == 1


@each_table
def test_between_two_points_beta_is_constant(table):
    """log abar is a straight line: a third of the way has two thirds of one end and a third of the other."""
    knots = torch.arange(table.steps + 1, dtype=torch.float64) / table.steps
    log_abar = torch.cat([torch.zeros(1).double(), torch.tensor(abar(table), dtype=torch.float64).log()])
    third = 2 * torch.log(table.alpha(knots[:-1] + 1 / (3 * table.steps)))
    torch.testing.assert_close(third, (2 * log_abar[:-1] + log_abar[1:]) / 3, rtol=1e-9, atol=1e-12)


@each_table
def test_the_inverse_finds_each_piece(table):
    t = torch.linspace(1e-6, 1, 3571, dtype=torch.float64)
    torch.testing.assert_close(table.t_from_log_snr(table.log_snr(t)), t, rtol=1e-11, atol=1e-13)
    # Past the end the last beta goes on.
    beyond = torch.tensor([1 + 0.4 / table.steps], dtype=torch.float64)
    torch.testing.assert_close(table.t_from_log_snr(table.log_snr(beyond)), beyond, rtol=1e-12, atol=0)
    assert table.log_snr(torch.zeros(())) == torch.inf and table.t_from_log_snr(torch.tensor(torch.inf)) == 0


@each_table
def test_index_and_time_are_inverse(table):
    index = torch.arange(table.steps)
    t = table.t_of_index(index)
    assert torch.equal(table.index(t), index) and torch.equal(table.index(t.float()), index)
    assert torch.equal(table.index(t - 0.4 / table.steps), index)
    assert torch.equal(table.index((t + 0.4 / table.steps).clamp(max=1)), index)
    assert table.index(torch.zeros(())) == 0


def test_betas_written_out():
    assert DDPM(0.1, 0.3, steps=3).betas(3) == pytest.approx([0.1, 0.2, 0.3])
    assert ScaledLinear(0.01, 0.09, steps=3).betas(3) == pytest.approx([0.01, 0.04, 0.09])
    f = [cos(pi / 2 * (i / 3 + 0.008) / 1.008) ** 2 for i in range(4)]
    assert DiscreteCosine(steps=3).betas(3) == pytest.approx([1 - f[1] / f[0], 1 - f[2] / f[1], 0.999])


def test_more_steps_of_smaller_betas_are_vp():
    """Ten times the steps, a tenth of the betas: the distance from the limit falls by ten."""
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    far, near = (
        float((2 * torch.log(DDPM(0.1 / n, 20 / n, steps=n).alpha(t) / VP().alpha(t))).abs().max())
        for n in (1000, 10_000)
    )
    assert far / near == pytest.approx(10, rel=0.01)


def test_the_clipped_beta_is_a_thousandth_of_the_rest():
    log_abar = 2 * torch.log(DiscreteCosine().alpha(torch.tensor([0.999, 1.0], dtype=torch.float64)))
    assert float(log_abar.diff().exp()) == pytest.approx(1e-3, rel=1e-12)
    assert exp(float(log_abar[1])) == pytest.approx(2.4e-9, rel=0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDPM(steps=0),
        lambda: DDPM(0.0, 0.02),
        lambda: DDPM(1e-4, 1.0),
        lambda: ScaledLinear(-0.1, 0.2),
        lambda: DiscreteCosine(steps=-1),
    ],
)
def test_a_table_without_betas_is_refused(make):
    with pytest.raises(UserError, match=r"no betas in \(0, 1\); choose steps"):
        make()


@pytest.mark.parametrize(
    ("table", "beta_schedule", "start", "end"),
    [
        (DDPM(), "linear", 1e-4, 0.02),
        (ScaledLinear(), "scaled_linear", 0.00085, 0.012),
        (DiscreteCosine(), "squaredcos_cap_v2", 1e-4, 0.02),
    ],
    ids=["linear", "scaled_linear", "squaredcos_cap_v2"],
)
def test_the_table_is_that_of_diffusers(table, beta_schedule, start, end):
    """Theirs is multiplied up in single precision."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(beta_schedule=beta_schedule, beta_start=start, beta_end=end).alphas_cumprod
    ours = table.alpha(table.t_of_index(torch.arange(1000))) ** 2
    torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours[:998], theirs[:998].double(), rtol=2e-4, atol=0)
