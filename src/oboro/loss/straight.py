"""The straight paths on which losses of mean velocities work, whatever the schedule of the denoiser is."""

import torch
from torch import Tensor

from oboro.condition import Condition
from oboro.denoiser import Denoiser, Denoises, combined
from oboro.loss.time import T_MIN, TimeDistribution
from oboro.schedule import Linear, Schedule, expand_as

LAST = 1 - 2**-24  # the last time in single precision at which some signal is left


class Open(Schedule):
    """``schedule`` without its end: from ``LAST`` on the noise level stays, so that eps is defined at all times."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule

    def alpha(self, t: Tensor) -> Tensor:
        return self.schedule.alpha(t.clamp(max=LAST))

    def sigma(self, t: Tensor) -> Tensor:
        return self.schedule.sigma(t.clamp(max=LAST))

    def log_snr(self, t: Tensor) -> Tensor:
        return self.schedule.log_snr(t.clamp(max=LAST))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return self.schedule.t_from_log_snr(log_snr)


STRAIGHT = Open(Linear())


def velocity(denoiser: Denoises, z: Tensor, t: Tensor, cond: Condition) -> Tensor:
    """eps̃ - x̂0 (B, ...) at ``z`` of the time ``t`` (B,)."""
    return combined(denoiser, z, t, cond, -torch.ones_like(t), torch.ones_like(t))


class Straight:
    """``denoiser`` on straight paths, z_t = (1 - t) x + t eps with t = sigma / (alpha + sigma).

    x_t / (alpha + sigma) of any schedule is such a z_t, and D depends on x_t / alpha and log-SNR alone. So the mean
    velocity u(z_t, r, t) = (z_t - z_r) / (t - r) of every flow map is eps̃ - x̂0 of the x̂0 that it has towards r; what
    a network with ``Velocity`` says itself. Times are those that the schedule reaches, or data (r = 0).
    """

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser.reschedule(STRAIGHT)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")
        alpha, sigma = denoiser.schedule(ends)
        first, last = (sigma / (alpha + sigma)).tolist()
        self.first, self.last = max(first, T_MIN), min(last, LAST)

    def times(self, u: Tensor, time: TimeDistribution) -> Tensor:
        """The times (B,) at the quantiles ``u`` (B,) of p(t) on the linear schedule."""
        return time.quantile(u.clamp(2**-25, 1 - 2**-24), STRAIGHT).clamp(0, LAST)

    def within(self, t: Tensor) -> Tensor:
        """``t`` between the ends of the schedule."""
        return t.clamp(self.first, self.last)

    def u(self, z: Tensor, t: Tensor, r: Tensor | None, cond: Condition) -> Tensor:
        """u(z, r, t) (B, ...), the velocity at t itself where ``r`` is None."""
        denoiser: Denoises = self.denoiser if r is None else self.denoiser.towards(1 - r, r)
        return velocity(denoiser, z, t, cond)


def straight_path(x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """(1 - t) x + t eps."""
    return x + expand_as(t, x) * (eps - x)


def quantiles(u: Tensor, count: int) -> list[Tensor]:
    """``u`` (B,) and ``count`` - 1 more made of its further digits, evenly spread as well: for validation, where
    nothing is drawn."""
    return [u * 32**k % 1.0 for k in range(count)]
