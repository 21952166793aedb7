import pytest
import torch

from oboro.base.errors import UserError
from oboro.schedule import DDPM, VE, VP, Cosine, DiscreteCosine, Linear, ScaledLinear, SubVP, ZeroTerminalSNR

pytestmark = pytest.mark.usefixtures("global_generator_unread")

INTERIOR = torch.linspace(0.01, 0.99, 197, dtype=torch.float64)


@pytest.mark.parametrize("base", [VP(), DDPM(), ScaledLinear()], ids=lambda s: type(s).__name__)
def test_from_exact_data_on_alpha_is_shifted_and_scaled(base):
    end = base.alpha(torch.ones((), dtype=torch.float64))
    expected = (base.alpha(INTERIOR) - end) / (1 - end)
    torch.testing.assert_close(ZeroTerminalSNR(base).alpha(INTERIOR), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("first", [0.001, 0.3])
def test_the_first_entry_and_what_is_before_it_are_unchanged(first):
    base = ScaledLinear()
    rescaled, t = ZeroTerminalSNR(base, first), torch.linspace(0, 1, 11, dtype=torch.float64) * first
    for name in ("alpha", "sigma", "log_snr"):
        torch.testing.assert_close(getattr(rescaled, name)(t), getattr(base, name)(t), rtol=1e-11, atol=0)
    end = base.alpha(torch.ones((), dtype=torch.float64))
    after = torch.linspace(first, 1, 50, dtype=torch.float64)
    straight = (rescaled.alpha(after) / (base.alpha(after) - end))[:-1]
    torch.testing.assert_close(straight, straight[:1].expand(49), rtol=1e-12, atol=0)


@pytest.mark.parametrize("first", [0.0, 0.001, 0.3])
@pytest.mark.parametrize("base", [VP(), ScaledLinear(), Cosine()], ids=lambda s: type(s).__name__)
def test_the_inverse_knows_both_sides_of_the_first_entry(base, first):
    rescaled = ZeroTerminalSNR(base, first)
    t = torch.cat([10.0 ** torch.linspace(-7, -2, 50).double(), INTERIOR, 1 - 10.0 ** -torch.arange(3, 9).double()])
    torch.testing.assert_close(rescaled.t_from_log_snr(rescaled.log_snr(t)), t, rtol=1e-9, atol=1e-14)


def test_it_changes_nothing_where_no_signal_is_left_already():
    alpha, sigma = ZeroTerminalSNR(Cosine())(INTERIOR)
    torch.testing.assert_close(alpha, Cosine().alpha(INTERIOR), rtol=1e-14, atol=0)
    torch.testing.assert_close(sigma, Cosine().sigma(INTERIOR), rtol=1e-14, atol=0)


@pytest.mark.parametrize("base", [VE(), Linear(), SubVP()], ids=lambda s: type(s).__name__)
def test_a_base_of_changing_variance_is_refused(base):
    with pytest.raises(UserError, match=f"which {type(base).__name__} does not keep; choose a base"):
        ZeroTerminalSNR(base)


@pytest.mark.parametrize("first", [-0.1, 1.0])
def test_a_first_entry_outside_of_the_table_is_refused(first):
    with pytest.raises(UserError, match=f"first = {first}; choose 0"):
        ZeroTerminalSNR(VP(), first)


@pytest.mark.parametrize("base", [DDPM(), ScaledLinear(), DiscreteCosine()], ids=lambda s: type(s).__name__)
def test_the_rescaled_table_is_that_of_diffusers(base):
    """Their function (arXiv:2305.08891, algorithm 1) on our betas in double precision."""
    scheduling = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    betas = scheduling.rescale_zero_terminal_snr(torch.tensor(base.betas(1000), dtype=torch.float64))
    theirs = torch.cumprod(1 - betas, 0)
    ours = ZeroTerminalSNR(base, 1 / 1000).alpha(base.t_of_index(torch.arange(1000))) ** 2
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    assert ours[-1] == 0


def test_stable_diffusion_with_zero_terminal_snr_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=True
    ).alphas_cumprod
    base = ScaledLinear()
    ours = ZeroTerminalSNR(base, 0.001).alpha(base.t_of_index(torch.arange(1000))) ** 2
    torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=1e-6)
