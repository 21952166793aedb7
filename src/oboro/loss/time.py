"""Which noise levels are trained: p(t) by inversion, and a p(t) that follows the losses."""

from abc import ABC, abstractmethod
from functools import cached_property
from math import sinh

import torch
from torch import Tensor, nn

from oboro.base import distributed
from oboro.base.errors import UserError
from oboro.base.ranges import Positive, PositiveShare, Share, Steps
from oboro.parameterization import Coefficients, Parameterization
from oboro.schedule import Schedule

# Below this time the weights 1/c_out² divide rounding errors of float32 by ever smaller noise.
T_MIN = 1e-5


class TimeDistribution(nn.Module, ABC):
    """p(t), by inversion: ``quantile`` maps u in (0, 1) to t, so that the caller decides how u is drawn.

    The other three are for training alone: ``draw`` may prefer some u, ``correct`` divides the loss by that preference,
    and ``record`` learns where the losses are large.
    """

    # Whether it prefers noise levels by the losses that it has seen there.
    adapts: bool = False

    @abstractmethod
    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """t of the shape of ``u``; may leave [0, 1], ``Level`` clamps it. Differentiable in ``u``."""

    def begin(self, parts: int) -> None:
        """A step begins, of ``parts`` micro-batches: what is recorded of them counts for the next step."""

    def draw(self, u: Tensor) -> Tensor:
        """The quantiles (B,) to train on, made from uniform ``u`` (B,)."""
        return u

    def correct(self, u: Tensor, loss: Tensor) -> Tensor:
        """``loss`` (B,) at the drawn ``u``, over the density of ``draw``: its expectation is that under uniform u."""
        return loss

    def record(self, u: Tensor, loss: Tensor) -> None:
        """Take note of what trained the denoiser at the drawn ``u``, ``loss`` (B,) without the correction."""


def time_at(u: Tensor, time: TimeDistribution, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """``u`` inside of (0, 1) and the times there, in [T_MIN, 1], both (B,)."""
    u = u.clamp(2**-25, 1 - 2**-24)  # normal quantiles are infinite at both ends, and inf / inf is NaN
    return u, time.quantile(u, schedule).clamp(T_MIN, 1)


class Level:
    """The noise levels (B,) at the quantiles ``u`` of p(t), as a weight sees them. Computed when they are needed."""

    def __init__(self, u: Tensor, time: TimeDistribution, schedule: Schedule, parameterization: Parameterization):
        self.u, self.t = time_at(u, time, schedule)
        self.time, self.schedule, self.parameterization = time, schedule, parameterization
        self.alpha, self.sigma = schedule(self.t)

    @cached_property
    def log_snr(self) -> Tensor:
        return self.schedule.log_snr(self.t)

    @cached_property
    def coefficients(self) -> Coefficients:
        """c_skip, c_out, c_in, c_noise of the denoiser."""
        return self.parameterization(self.alpha, self.sigma)

    @cached_property
    def inverse_density(self) -> Tensor:
        """1 / p(log_snr) = |d log_snr / du|, and 0 where t was cut at an end of the schedule.

        For uniform u, E[f(log_snr) / p(log_snr)] is the integral of f over the log-SNRs that the schedule reaches.
        Raises ``UserError`` for a single noise level, which has no density.
        """
        if isinstance(self.time, Fixed):
            raise UserError(
                "a weight that does not depend on p(t) needs a range of noise levels and loss/time=fixed is one; "
                "choose loss/weighting=uniform."
            )
        with torch.inference_mode(False), torch.enable_grad():
            u = self.u.detach().clone().requires_grad_()
            t = self.time.quantile(u, self.schedule)
            inside = (t > T_MIN) & (t < 1)
            log_snr = self.schedule.log_snr(torch.where(inside, t, 0.5))  # its slope at the ends may be infinite
            (slope,) = torch.autograd.grad(log_snr.sum(), u)
            return torch.where(inside, slope.abs(), 0)  # outside, 0 times an infinite slope of t may be NaN


class Fixed(TimeDistribution):
    """One noise level, that at ``t``: what denoising autoencoders have, and with t = 1 generators of one step."""

    def __init__(self, t: PositiveShare = 0.5):
        super().__init__()
        self.t = t

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.full_like(u, self.t)


class Uniform(TimeDistribution):
    """t ~ U(low, high). Raises ``UserError`` unless low < high."""

    def __init__(self, low: Share = 0.0, high: Share = 1.0):
        super().__init__()
        if low >= high:
            raise UserError(f"times are drawn between low and high and these are {low:g} and {high:g}; set low < high.")
        self.low = low
        self.high = high

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.low + (self.high - self.low) * u


class LogNormal(TimeDistribution):
    """log(sigma / alpha) ~ N(mean, std²): EDM (arXiv:2206.00364, table 1, P_mean = -1.2 and P_std = 1.2)."""

    def __init__(self, mean: float = -1.2, std: Positive = 1.2):
        super().__init__()
        self.mean = mean
        self.std = std

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.t_from_log_snr(-2 * (self.mean + self.std * torch.special.ndtri(u)))


class LogitNormal(TimeDistribution):
    """log(t / (1 - t)) ~ N(loc, scale²): Esser et al. 2024 (arXiv:2403.03206, eq. 19)."""

    def __init__(self, loc: float = 0.0, scale: Positive = 1.0):
        super().__init__()
        self.loc = loc
        self.scale = scale

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.sigmoid(self.loc + self.scale * torch.special.ndtri(u))


class UShaped(TimeDistribution):
    """p(t) ∝ exp(a t) + exp(a (1 - t)): more of both ends, for straight paths.

    Lee et al. 2024 (arXiv:2405.20320, sec. 3; a = 4). Its distribution function is
    1/2 + sinh(a (t - 1/2)) / (2 sinh(a / 2)).
    """

    def __init__(self, a: Positive = 4.0):
        super().__init__()
        self.a = a

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return 0.5 + torch.asinh((2 * u - 1) * sinh(self.a / 2)) / self.a


class LossAware(TimeDistribution):
    """Draws more of the noise levels where the loss L is large, and divides L by its preference for them.

    The quantiles of ``base`` fall into ``bins`` equal bins. A bin is drawn with probability
    p = (1 - uniform) sqrt(mean L²) / sum + uniform / bins, from its last ``history`` losses, and uniformly until every
    bin has had as many; the loss is divided by p bins. Nichol & Dhariwal 2021 (arXiv:2102.09672, sec. 3.3, eq. 18),
    there over the 1000 steps of DDPM with a history of 10. The losses of all ranks and micro-batches of a step are
    recorded at its end, in the order of one process. ``quantile`` is that of ``base``, so a validation loss does not
    move with the state.

    Raises ``UserError`` for no bins, no history, or a uniform share outside of (0, 1].
    """

    adapts = True
    losses: Tensor
    counts: Tensor

    def __init__(
        self,
        base: TimeDistribution,
        bins: Steps = 64,
        history: Steps = 10,
        uniform: PositiveShare = 0.001,
    ):
        super().__init__()
        if not (0 < uniform <= 1 and bins >= 1 and history >= 1):
            raise UserError(
                f"loss-aware times need bins and history of at least 1 and a uniform share in (0, 1], got {bins}, "
                f"{history} and {uniform}; set loss.time.bins, loss.time.history and loss.time.uniform so."
            )
        if base.adapts:
            raise UserError(
                f"LossAware of {type(base).__name__} would follow the losses twice; choose a fixed p(t) as "
                "loss.time.base."
            )
        self.base = base
        self.uniform = uniform
        self.register_buffer("losses", torch.zeros(bins, history))
        self.register_buffer("counts", torch.zeros(bins, dtype=torch.int64))
        self.begin(1)

    def begin(self, parts: int) -> None:
        self._parts = parts
        self._rows: list[Tensor] = []  # bin and loss of each sample, of the micro-batches of this step

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.base.quantile(u, schedule)

    def probabilities(self) -> Tensor:
        """p (bins,)."""
        bins, history = self.losses.shape
        size = self.losses.square().mean(1).sqrt().clamp(min=torch.finfo(self.losses.dtype).tiny)
        p = (1 - self.uniform) * size / size.sum() + self.uniform / bins
        return torch.where((self.counts >= history).all(), p, 1 / bins)

    def _bin(self, u: Tensor) -> Tensor:
        bins = len(self.counts)
        return (u * bins).long().clamp(0, bins - 1)

    def draw(self, u: Tensor) -> Tensor:
        p = self.probabilities()
        edges = p.cumsum(0)
        k = torch.searchsorted(edges, u.to(p), right=True).clamp(max=len(p) - 1)
        inside = ((u.to(p) - (edges - p)[k]) / p[k]).clamp(0, 1 - 2**-16)  # rounding does not lead into the next bin
        return ((k + inside) / len(p)).to(u)

    def correct(self, u: Tensor, loss: Tensor) -> Tensor:
        p = self.probabilities()
        return loss / (p[self._bin(u)] * len(p)).to(loss)

    @torch.no_grad()
    def record(self, u: Tensor, loss: Tensor) -> None:
        """Put ``loss`` of every rank into the rings of their bins, with the last micro-batch of a step; in training
        mode only."""
        if not self.training:
            return
        k = self._bin(u)
        ids = torch.arange(len(k), device=k.device) + distributed.rank() * len(k)  # the order of one process
        _, rows = distributed.gather_rows(ids, torch.stack([k.to(self.losses), loss.to(self.losses)], 1))
        self._rows.append(rows)
        if len(self._rows) < self._parts:
            return
        rows, self._rows = torch.cat(self._rows), []
        k, order = torch.sort(rows[:, 0].long(), stable=True)
        arrived = torch.bincount(k, minlength=len(self.counts))
        place = torch.arange(len(k), device=k.device) - (arrived.cumsum(0) - arrived)[k]  # in the queue of its bin
        history = self.losses.shape[1]
        last = place >= arrived[k] - history  # the earlier ones of a long queue would be overwritten
        slot = (self.counts[k] + place) % history
        self.losses[k[last], slot[last]] = rows[order, 1][last]
        self.counts += arrived
