from math import exp, log, pi

import pytest
import torch

from oboro.base.errors import UserError
from oboro.schedule import VE, VP, Cosine, Interpolated, Linear, Shifted

pytestmark = pytest.mark.usefixtures("global_generator_unread")

INTERIOR = torch.linspace(0.01, 0.99, 197, dtype=torch.float64)


def test_averaging_pixels_takes_back_the_shift(normal):
    """The reason for it: x_t at 32 pixels a side, averaged to 8, has the noise that the base has at 8."""
    base, t = Cosine(), torch.full((400,), 0.6, dtype=torch.float64)
    x = normal(400, 1, 8, 8)
    large = x.repeat_interleave(4, 2).repeat_interleave(4, 3)
    shifted = Shifted(base, resolution=32, reference=8)
    alpha, _ = shifted(t[:1])
    x_t = torch.nn.functional.avg_pool2d(shifted.add_noise(large, normal(400, 1, 32, 32), t), 4)
    ratio = float((x_t / alpha - x).std())
    alpha, sigma = base(t[:1])
    assert ratio == pytest.approx(float(sigma / alpha), rel=5 / (2 * x.numel()) ** 0.5)


@pytest.mark.parametrize("base", [Linear(), Cosine(), VP(), VE()], ids=lambda s: type(s).__name__)
def test_it_is_the_base_at_another_time(base):
    shifted = Shifted(base, resolution=256, reference=64)
    torch.testing.assert_close(shifted.log_snr(INTERIOR), base.log_snr(INTERIOR) - 2 * log(4), rtol=1e-12, atol=1e-12)
    later = base.t_from_log_snr(shifted.log_snr(INTERIOR))
    assert (later > INTERIOR).all()
    for ours, theirs in zip(shifted(INTERIOR), base(later), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_shifts_add_up():
    twice, once = Shifted(Shifted(Cosine(), 128, 64), 256, 128), Shifted(Cosine(), 256, 64)
    for a, b in zip(twice(INTERIOR), once(INTERIOR), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


@pytest.mark.parametrize("m", [0.5, 3.0])
def test_on_straight_lines_it_is_the_timestep_shift_of_stable_diffusion_3(m):
    """t' = m t / (1 + (m - 1) t) (arXiv:2403.03206, eq. 23)."""
    alpha, sigma = Shifted(Linear(), resolution=m, reference=1)(INTERIOR)
    later = m * INTERIOR / (1 + (m - 1) * INTERIOR)
    torch.testing.assert_close(sigma, later, rtol=1e-13, atol=0)
    torch.testing.assert_close(alpha, 1 - later, rtol=1e-13, atol=0)


def test_the_timestep_shift_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas[:1000].flip(0).double()
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(Shifted(Linear(), 3072, 1024).sigma(t), theirs, rtol=0, atol=1e-6)


# --- interpolated


def test_interpolation_is_linear_in_t_between_two_shifted_cosines():
    near, far = Shifted(Cosine(), 512, reference=256), Shifted(Cosine(), 512, reference=32)
    expected = (1 - INTERIOR) * near.log_snr(INTERIOR) + INTERIOR * far.log_snr(INTERIOR)
    torch.testing.assert_close(Interpolated(512, 256, 32).log_snr(INTERIOR), expected, rtol=1e-12, atol=1e-12)


def test_between_equal_shifts_it_is_shifted():
    a, b = Interpolated(256, 64, 64), Shifted(Cosine(), 256, 64)
    log_snr = torch.linspace(-20, 20, 101, dtype=torch.float64)
    torch.testing.assert_close(a.sigma(INTERIOR), b.sigma(INTERIOR), rtol=1e-12, atol=0)
    torch.testing.assert_close(a.t_from_log_snr(log_snr), b.t_from_log_snr(log_snr), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("data", "noise"), [(256, 32), (32, 256), (8192, 1), (1, 20.0)])
def test_its_inverse_is_exact_to_the_last_digits(data, noise):
    """In either direction, to both ends, and where log-SNR is nearly flat."""
    schedule = Interpolated(128, data, noise)
    near = 10.0 ** torch.linspace(-12, -2, 60, dtype=torch.float64)
    t = torch.cat([near, INTERIOR, 1 - near[near > 1e-8]])
    found = schedule.t_from_log_snr(schedule.log_snr(t))
    torch.testing.assert_close(found, t, rtol=3e-13, atol=1e-15)
    torch.testing.assert_close(schedule.t_from_log_snr(schedule.log_snr(t.float())), t.float(), rtol=2e-5, atol=0)


def test_a_log_snr_that_would_rise_is_refused():
    with pytest.raises(UserError, match="would rise in log-SNR on the way; choose noise below 231"):
        Interpolated(128, data=10, noise=10 * exp(pi) * 1.001)
    t = torch.linspace(0.3, 0.7, 1001, dtype=torch.float64)
    assert (Interpolated(128, data=10, noise=10 * exp(pi) * 0.999).log_snr(t).diff() < 0).all()


@pytest.mark.parametrize("make", [lambda: Shifted(Linear(), 0), lambda: Shifted(Linear(), 64, -1)])
def test_images_without_pixels_are_refused(make):
    with pytest.raises(UserError, match="choose both above 0"):
        make()
    with pytest.raises(UserError, match="choose them above 0"):
        Interpolated(0)
