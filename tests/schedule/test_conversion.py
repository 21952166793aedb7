"""What others call by the same names, and how their times and noise levels become ours (docs/schedules.md).

Each peer is written here in its own notation. Conversion goes through the log-SNR of its signal a and noise s:
t = t_from_log_snr(2 log(a / s)) and x_t = (alpha_t / a) x.
"""

from itertools import combinations
from math import inf, log, pi, sin, sqrt

import pytest
import torch
from torch import nn

from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.parameterization import EDM
from oboro.schedule import (
    DDPM,
    VE,
    VP,
    Cosine,
    DiscreteCosine,
    Interpolated,
    Karras,
    Linear,
    ScaledLinear,
    SubVP,
    expand_as,
)

pytestmark = pytest.mark.usefixtures("global_generator_unread")

U = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)


def song_vp(u):
    """arXiv:2011.13456, eq. 33."""
    log_mean = -(u**2) * 19.9 / 4 - u * 0.1 / 2
    return torch.exp(log_mean), torch.sqrt(1 - torch.exp(2 * log_mean))


def song_sub_vp(u):
    a, s = song_vp(u)
    return a, s**2


def song_ve(u):
    """Eq. 31."""
    return torch.ones_like(u), 0.01 * 5000**u


def edm_vp(u):
    """arXiv:2206.00364, table 1, column VP: scale s(t) and noise s(t) sigma(t)."""
    sigma = torch.sqrt(torch.exp(19.9 * u**2 / 2 + 0.1 * u) - 1)
    scale = torch.exp(19.9 * u**2 / 2 + 0.1 * u) ** -0.5
    return scale, scale * sigma


def k_diffusion_v(u):
    """The cosine of its v-models: sigma = tan(pi u / 2) at unit signal."""
    return torch.ones_like(u), torch.tan(u * pi / 2)


def k_diffusion_interpolated(u):
    """At 128 pixels, from noise_d_low = 32 at u = 0 to noise_d_high = 256 at u = 1, without limits of sigma."""
    cosine = -2 * torch.log(torch.tan(u * pi / 2))
    low, high = cosine + 2 * log(32 / 128), cosine + 2 * log(256 / 128)
    return torch.ones_like(u), torch.exp(-torch.lerp(low, high, u) / 2)


def flow_matching(u):
    """Lipman et al. (arXiv:2210.02747): u = 0 is noise, u = 1 data."""
    return u, 1 - u


def azula_vp(u):
    a = torch.exp(u**2 * log(1e-3))
    return a, torch.sqrt(1 - a**2 + 1e-6)


def azula_cosine(u):
    a = torch.cos(u * torch.acos(torch.tensor(1e-3, dtype=torch.float64)))
    return a, torch.sqrt(1 - a**2 + 1e-6)


def azula_rectified(u):
    return u * 1e-3 + (1 - u), u + (1 - u) * 1e-3


def azula_ve(u):
    return torch.ones_like(u), torch.exp((1 - u) * log(1e-3) + u * log(1e3))


SAME_TIME = {
    "Song's VP": (song_vp, VP()),
    "Song's sub-VP": (song_sub_vp, SubVP()),
    "Song's VE": (song_ve, VE()),
    "EDM's VP": (edm_vp, VP()),
    "k-diffusion's v": (k_diffusion_v, Cosine()),
    "k-diffusion's interpolated cosine": (k_diffusion_interpolated, Interpolated(128, data=32, noise=256)),
    "azula's VE": (azula_ve, VE(1e-3, 1e3)),
}


def converted(peer, schedule, u, x):
    """(t, x_t) of the peer's time u and picture x."""
    a, s = peer(u)
    t = schedule.t_from_log_snr(2 * torch.log(a / s))
    return t, expand_as(schedule.alpha(t) / a, x) * x


@pytest.mark.parametrize("name", SAME_TIME)
def test_these_have_the_same_time(name):
    peer, schedule = SAME_TIME[name]
    t, _ = converted(peer, schedule, U, U)
    torch.testing.assert_close(t, U, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["Song's VP", "Song's sub-VP", "Song's VE", "EDM's VP", "azula's VE"])
def test_these_have_the_same_scale_too(name):
    peer, schedule = SAME_TIME[name]
    for theirs, ours in zip(peer(U), schedule(U), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)


def test_the_time_of_flow_matching_is_reversed():
    t, x_t = converted(flow_matching, Linear(), U, torch.ones_like(U))
    torch.testing.assert_close(t, 1 - U, rtol=1e-12, atol=0)
    torch.testing.assert_close(x_t, torch.ones_like(U), rtol=1e-12, atol=0)


def test_the_sigma_of_edm_is_noise_over_signal(schedule):
    """The noise level of EDM, of k-diffusion and of the sigmas of diffusers: sigma / alpha = exp(-log_snr / 2)."""
    alpha, sigma = schedule(U)
    torch.testing.assert_close(torch.exp(-schedule.log_snr(U) / 2), sigma / alpha, rtol=1e-10, atol=0)
    levels = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    alpha, sigma = schedule(schedule.t_from_log_snr(-2 * torch.log(levels)))
    torch.testing.assert_close(sigma / alpha, levels, rtol=1e-10, atol=0)


def test_the_steps_of_edms_ve_are_uniform_in_our_t():
    """sigma² = sigma_max² (sigma_min² / sigma_max²)^(i / (N - 1)) with 0.02 and 100 (table 1, column VE)."""
    i = torch.arange(18, dtype=torch.float64) / 17
    torch.testing.assert_close(VE(0.02, 100).sigma(1 - i), torch.sqrt(100**2 * (0.02**2 / 100**2) ** i))


def test_the_levels_of_edms_iddpm_are_the_discrete_cosine():
    """Its recursion (table 1, column iDDPM; C1 = 0.001, C2 = 0.008): u_j at t = 1 - j / M."""
    m, level, levels = 1000, 0.0, [0.0]
    for j in range(m, 0, -1):
        after, before = (sin(pi / 2 * k / (m * 1.008)) ** 2 for k in (j, j - 1))
        level = sqrt((level**2 + 1) / max(before / after, 0.001) - 1)
        levels.append(level)
    t = torch.arange(1, m + 1, dtype=torch.float64) / m
    alpha, sigma = DiscreteCosine(steps=m)(t)
    torch.testing.assert_close(sigma / alpha, torch.tensor(levels[1:], dtype=torch.float64), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("peer", "schedule"),
    [(azula_vp, VP()), (azula_cosine, Cosine()), (azula_rectified, Linear()), (azula_vp, Karras())],
    ids=["vp", "cosine", "rectified", "vp as edm"],
)
def test_azulas_noise_is_ours_at_another_time(peer, schedule, normal):
    """Its sigma_0 = 0.001 and alpha_1 = 0.001 move the ends, and its VP is no linear beta. Converted, signal and noise
    are ours."""
    x, eps = normal(99, 4), normal(99, 4)
    a, s = peer(U)
    t, x_t = converted(peer, schedule, U, a[:, None] * x + s[:, None] * eps)
    torch.testing.assert_close(x_t, schedule.add_noise(x, eps, t), rtol=1e-9, atol=1e-11)
    assert (t - U).abs().max() > 1e-4


def test_azulas_vp_without_its_least_noise_is_a_vp_that_starts_at_beta_0():
    a, _ = azula_vp(U)
    torch.testing.assert_close(VP(0.0, -4 * log(1e-3)).alpha(U), a, rtol=1e-12, atol=0)


@pytest.mark.parametrize("arguments", [("linear", 1e-4, 0.02), ("scaled_linear", 0.00085, 0.012)], ids=lambda a: a[0])
def test_timesteps_and_sigmas_of_diffusers(arguments):
    """Timestep i is our t = (i + 1) / 1000, its sigma exp(-log_snr / 2)."""
    diffusers = pytest.importorskip("diffusers")
    beta_schedule, start, end = arguments
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_schedule=beta_schedule, beta_start=start, beta_end=end, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(20)
    table = {"linear": DDPM, "scaled_linear": ScaledLinear}[beta_schedule](start, end)
    assert scheduler.timesteps[0] == 999 and torch.equal(scheduler.timesteps, scheduler.timesteps.round())
    sigma = torch.exp(-table.log_snr(table.t_of_index(scheduler.timesteps)) / 2)
    torch.testing.assert_close(sigma, scheduler.sigmas[:-1].double(), rtol=1e-4, atol=0)


def test_k_diffusion_interpolates_a_table_otherwise_than_we_do():
    """Linearly in log sigma: equal at the table's points, and within 2 % between them after the first ten."""
    table = ScaledLinear()
    knots = table.log_snr(table.t_of_index(torch.arange(1000))) / -2
    middle = table.log_snr(table.t_of_index(torch.arange(999)) + 0.0005) / -2
    distance = (middle - (knots[1:] + knots[:-1]) / 2).abs()
    assert 1e-7 < distance[10:].max() < 0.02
    assert distance[0] > 0.02


def test_the_table_of_the_cosine_starts_at_its_offset():
    """abar = cos²(pi/2 (t + s) / (1 + s)) / cos²(pi/2 s / (1 + s)), s = 0.008, until beta is clipped."""
    t = torch.arange(1, 1000, dtype=torch.float64) / 1000
    offset = torch.tensor(0.008 / 1.008, dtype=torch.float64)
    expected = Cosine().alpha((t + 0.008) / 1.008) / Cosine().alpha(offset)
    torch.testing.assert_close(DiscreteCosine().alpha(t), expected, rtol=1e-9, atol=0)


# --- the same network on any schedule


class Network(nn.Module):
    """A smooth function of all its arguments, float64."""

    def forward(self, x, c_noise, cond):
        mixed = x + 0.5 * x.roll(1, 1) + expand_as(c_noise, x)
        return torch.sin(mixed) + 0.3 * torch.cos(2 * mixed * expand_as(c_noise, x))


def test_a_denoiser_gives_the_same_image_on_every_schedule(schedules, normal):
    """At the time of equal log-SNR, from the same x_t / alpha_t; over all pairs of schedules, where both have it."""
    log_snr, z = torch.linspace(-12, 12, 97, dtype=torch.float64), normal(97, 8)
    trained, found = Denoiser(Network(), schedules["linear"], EDM()), {}
    for name, schedule in schedules.items():
        first, last = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        has = (log_snr <= first) & (log_snr >= last)
        t = schedule.t_from_log_snr(log_snr[has])
        out = torch.full_like(z, inf)
        out[has] = trained.reschedule(schedule)(expand_as(schedule.alpha(t), z) * z[has], t, Condition())
        found[name] = has, out
    pairs = list(combinations(found, 2))
    assert len(pairs) >= 91
    for a, b in pairs:
        both = found[a][0] & found[b][0]
        assert both.sum() > 20, (a, b)
        torch.testing.assert_close(found[a][1][both], found[b][1][both], rtol=1e-6, atol=1e-6)
