from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from conftest import defined, each_denoiser
from oboro.base.errors import UserError
from oboro.condition import Condition, Label
from oboro.denoiser import Denoiser, same_time
from oboro.denoiser.exact import GaussianDenoiser
from oboro.parameterization import EDM, Eps, V
from oboro.schedule import VP, Cosine, Karras, Linear, expand_as

pytestmark = pytest.mark.usefixtures("global_generator_unread")

LOG_SNR = torch.tensor([-6.0, -2.0, 0.0, 2.0, 4.0], dtype=torch.float64)


class Recorder(nn.Module):
    """A network that keeps its arguments and returns its input."""

    reads: ClassVar = {"label": Label}

    def forward(self, x, c_noise, cond):
        self.arguments = x, c_noise, cond
        return x


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
def test_eps_is_refused_where_a_schedule_ends_without_signal(schedule):
    with pytest.raises(UserError, match=f"Eps is undefined at t = 1 of {type(schedule).__name__}.*choose"):
        Denoiser(nn.Identity(), schedule, Eps())
    with pytest.raises(UserError):
        Denoiser(nn.Identity(), VP(), Eps()).reschedule(schedule)


@each_denoiser
def test_the_coefficients_of_the_current_noise_wrap_the_network(schedule, parameterization, normal):
    network, x_t, cond = Recorder(), normal(5, 1, 4, 4), Condition.of(label=Label(torch.arange(5)))
    t = schedule.t_from_log_snr(LOG_SNR)
    out = Denoiser(network, schedule, parameterization)(x_t, t, replace(cond, away={"label": Label(torch.zeros(5))}))
    c = parameterization(*schedule(t))
    seen, c_noise, seen_cond = network.arguments
    assert seen_cond == cond.signals  # and nothing of what guidance goes away from
    torch.testing.assert_close(c_noise, c.c_noise)
    for i in range(5):
        torch.testing.assert_close(seen[i], c.c_in[i] * x_t[i])
        torch.testing.assert_close(out[i], c.c_skip[i] * x_t[i] + c.c_out[i] * seen[i])


def test_another_schedule_changes_nothing_but_the_scale(parameterization, schedules, small_unet, normal):
    """D depends on x_t / alpha_t and log-SNR alone, with a network of random weights."""
    first, *others = (s for s in schedules.values() if defined(s, parameterization))
    denoiser = Denoiser(small_unet(num_classes=3), first, parameterization)
    x_t, cond = normal(5, 1, 8, 8), Condition.of(label=Label(torch.tensor([0, 1, 2, -1, 0])))
    t = first.t_from_log_snr(LOG_SNR)
    with torch.no_grad():
        expected = denoiser(x_t, t, cond)
        for other in others:
            u = other.t_from_log_snr(LOG_SNR)
            scale = expand_as(other.alpha(u) / first.alpha(t), x_t)
            moved = denoiser.reschedule(other)(scale * x_t, u, cond)
            # c_noise reaches frequencies up to 100 rad per unit, in single precision.
            torch.testing.assert_close(
                moved, expected, rtol=1e-4, atol=1e-4, msg=lambda m, other=other: f"{type(other).__name__}: {m}"
            )


class TwoAnswers(nn.Module):
    """Twice as many channels as the input: the input, and three times it."""

    def forward(self, x, c_noise, cond):
        return torch.cat([x, 3 * x], 1)


@each_denoiser
def test_the_other_channels_are_the_place_of_the_variance_in_its_range(schedule, parameterization, normal):
    """v = (output + 1) / 2 (arXiv:2102.09672, sec. 3.1 and its code), and x̂0 as if they were not there."""
    x_t, t = normal(5, 2, 4, 4), schedule.t_from_log_snr(LOG_SNR)
    denoiser = Denoiser(TwoAnswers(), schedule, parameterization)
    x0, v = denoiser.with_variance(x_t, t, Condition())
    assert torch.equal(x0, denoiser(x_t, t, Condition()))
    c_in = expand_as(parameterization(*schedule(t)).c_in, x_t)
    torch.testing.assert_close(v, (3 * c_in * x_t + 1) / 2)
    torch.testing.assert_close(x0, Denoiser(Recorder(), schedule, parameterization)(x_t, t, Condition()))


def test_a_network_without_a_variance_is_told_how_to_get_one(normal):
    denoiser = Denoiser(Recorder(), Linear(), V())
    with pytest.raises(UserError, match=r"Recorder predicts no variance; train it with model\.learned_variance=true"):
        denoiser.with_variance(normal(2, 1), torch.full((2,), 0.5), Condition())


def test_rescheduling_shares_the_network():
    denoiser = Denoiser(nn.Identity(), Linear(), V())
    other = denoiser.reschedule(Karras())
    assert other.network is denoiser.network
    assert isinstance(other.schedule, Karras) and isinstance(denoiser.schedule, Linear)


@each_denoiser
def test_finite_at_t_1_in_single_precision(schedule, parameterization, small_unet, normal):
    denoiser = Denoiser(small_unet(dtype=torch.float32), schedule, parameterization)
    with torch.no_grad():
        out = denoiser(schedule.prior(normal(2, 1, 8, 8).float()), torch.ones(2), Condition())
    assert out.isfinite().all() and out.std() > 0


def test_a_batch_may_mix_times(schedule, small_unet, normal):
    denoiser = Denoiser(small_unet(), schedule, EDM())
    x_t, t = normal(5, 1, 8, 8), schedule.t_from_log_snr(LOG_SNR)
    with torch.no_grad():
        together = denoiser(x_t, t, Condition())
        alone = torch.cat([denoiser(x_t[i : i + 1], t[i : i + 1], Condition()) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


def test_half_precision_of_the_network_does_not_reach_the_input(normal):
    class Half(nn.Module):
        def forward(self, x, c_noise, cond):
            return x.bfloat16()

    x_t, t = normal(2, 1, 4, 4).float(), torch.tensor([0.2, 0.8])
    c = V()(*Linear()(expand_as(t, x_t)))
    expected = c.c_skip * x_t + c.c_out * (c.c_in * x_t).bfloat16().float()
    torch.testing.assert_close(Denoiser(Half(), Linear(), V())(x_t, t, Condition()), expected, rtol=1e-6, atol=1e-6)


# --- the exact denoiser of a Gaussian


def test_gaussian_denoiser_is_the_posterior_mean(schedule):
    """E[x | x_t] by quadrature of prior times likelihood."""
    mean, std = 0.3, 0.7
    t, x_t = schedule.t_from_log_snr(LOG_SNR), torch.tensor([-1.4, -0.3, 0.1, 0.8, 2.0], dtype=torch.float64)
    alpha, sigma = schedule(t)
    x_t = x_t * alpha
    x = mean + std * torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    log_joint = -(((x - mean) / std) ** 2) / 2 - ((x_t[:, None] - alpha[:, None] * x) / sigma[:, None]) ** 2 / 2
    posterior = torch.softmax(log_joint, 1)
    exact = GaussianDenoiser(mean, std, schedule)(x_t[:, None], t, Condition())[:, 0]
    torch.testing.assert_close(exact, (posterior * x).sum(1), atol=1e-9, rtol=0)


def test_flow_composes(schedule, normal):
    d, x = GaussianDenoiser(0.3, 0.7, schedule), normal(6, 3)
    t, r, s = (torch.full((6,), v, dtype=torch.float64) for v in (0.9, 0.5, 0.2))
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(d.flow(d.flow(x, t, r), r, s), d.flow(x, t, s), **close)
    torch.testing.assert_close(d.flow(x, t, t), x, **close)
    torch.testing.assert_close(d.flow(d.flow(x, t, s), s, t), x, **close)


def test_flow_carries_each_marginal_to_the_next(schedule):
    """The quantile at k standard deviations stays at k standard deviations."""
    mean, std = 0.3, 0.7
    k = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]

    def quantile(t):
        alpha, sigma = schedule(expand_as(t, k))
        return alpha * mean + torch.sqrt(alpha**2 * std**2 + sigma**2) * k

    t, s = torch.full((7,), 0.9, dtype=torch.float64), torch.full((7,), 0.1, dtype=torch.float64)
    moved = GaussianDenoiser(mean, std, schedule).flow(quantile(t), t, s)
    torch.testing.assert_close(moved, quantile(s), rtol=1e-11, atol=1e-11)


def test_flow_solves_the_probability_flow_ode(schedule, normal):
    """d(x/alpha) / d(sigma/alpha) = (x - alpha D(x)) / sigma along the flow: it follows its own denoiser."""
    d, x = GaussianDenoiser(0.3, 0.7, schedule), normal(4, 3)
    t = torch.full((4,), 0.9, dtype=torch.float64)
    s = torch.tensor([0.8, 0.6, 0.4, 0.2], dtype=torch.float64)
    one = torch.ones_like(s)
    scaled, slope = torch.autograd.functional.jvp(lambda s: d.flow(x, t, s) / schedule.alpha(s)[:, None], s, one)
    _, speed = torch.autograd.functional.jvp(lambda s: schedule.sigma(s) / schedule.alpha(s), s, one)
    alpha, sigma = (c[:, None] for c in schedule(s))
    x_s = alpha * scaled
    torch.testing.assert_close(
        slope, speed[:, None] * (x_s - alpha * d(x_s, s, Condition())) / sigma, rtol=1e-9, atol=1e-9
    )


@each_denoiser
def test_a_time_that_all_rows_share_gives_the_same_bits(schedule, parameterization, normal):
    """Its coefficients are kept: from one call to the next, whichever came first, and in both types."""
    denoiser = Denoiser(Recorder(), schedule, parameterization)
    for times in ((0.3, 0.7), (0.7, 0.3)):
        for t in times:
            for x in (normal(5, 2, 3, 3), normal(5, 2, 3, 3).float()):
                plain = denoiser(x, torch.full((5,), t, dtype=x.dtype), Condition())
                seen = denoiser.network.arguments[1]
                assert torch.equal(denoiser(x, same_time(x, t), Condition()), plain)
                assert torch.equal(denoiser.network.arguments[1], seen)


def test_a_shared_time_follows_the_schedule_and_lets_gradients_through(normal):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

        def forward(self, x, c_noise, cond):
            return self.weight * x + expand_as(c_noise, x)

    denoiser = Denoiser(Scaled(), Linear(), V())
    x = normal(3, 2, 4, 4)
    with torch.inference_mode():
        first = denoiser(x, same_time(x, 0.5), Condition())
    x.requires_grad_()
    again = denoiser(x, same_time(x, 0.5), Condition())
    assert torch.equal(first, again)
    again.sum().backward()
    assert x.grad.abs().min() > 0 and denoiser.network.weight.grad.abs().min() > 0
    other = denoiser.reschedule(Cosine())(x, same_time(x, 0.5), Condition())
    denoiser.schedule = Cosine()
    assert torch.equal(denoiser(x, same_time(x, 0.5), Condition()), other)
    assert not torch.equal(other, again)
