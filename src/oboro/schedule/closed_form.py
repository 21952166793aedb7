"""Schedules that a paper gives as a function of t: alpha and sigma themselves, alpha², or log-SNR."""

from math import cosh, exp, log, pi, sinh

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Positive
from oboro.schedule.schedule import Schedule, VariancePreserving


class Linear(Schedule):
    r"""Straight lines between data and noise: alpha_t = 1 - t, sigma_t = t.

    Rectified flow and flow matching with optimal-transport paths (Liu et al. 2022, arXiv:2209.03003, eq. 1;
    Lipman et al. 2022, arXiv:2210.02747, eq. 20-22 with sigma_min = 0 and the time axis reversed).
    The signal vanishes at t = 1, so a network that predicts eps cannot be used there.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - torch.log(t))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


class Cosine(Schedule):
    r"""alpha_t = cos(pi t / 2), sigma_t = sin(pi t / 2): variance preserving, log_snr = -2 log tan(pi t / 2).

    Nichol & Dhariwal 2021 (arXiv:2102.09672, eq. 17) without their offset s = 0.008, as in Salimans & Ho 2022
    (arXiv:2202.00512, sec. 4). ``DiscreteCosine`` is their table. Like ``Linear`` it ends without any signal.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin((1 - t) * (pi / 2))  # equals cos(pi t / 2), and is exactly 0 at t = 1

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * (pi / 2))

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) * (2 / pi)


class Sigmoid(VariancePreserving):
    r"""alpha_t² = (S(end) - S(start + t (end - start))) / (S(end) - S(start)) with S(v) = 1 / (1 + exp(-v / tau)).

    Jabri et al. 2022 (arXiv:2212.11972, app. B), from exactly 1 at t = 0 to exactly 0 at t = 1: their clipping of
    alpha² at 1e-9 is left out. A smaller tau moves more of the noise into the middle. With s = start / tau,
    e = end / tau and h = (e - s) / 2 the addition theorem of sinh turns the ratio of differences into
    log_snr = log(sinh((1 - t) h) / sinh(t h)) + log(cosh(s / 2) / cosh(e / 2)), without cancellation at either end.

    Raises ``UserError`` unless start < end and 0 < tau, and where sinh((end - start) / (2 tau)) is beyond float32.
    """

    def __init__(self, start: float = -3.0, end: float = 3.0, tau: Positive = 1.0):
        if not (start < end and tau > 0 and end - start <= 160 * tau):
            raise UserError(
                f"Sigmoid got start = {start}, end = {end}, tau = {tau}; choose start < end and tau at least "
                "(end - start) / 160."
            )
        self.start, self.end, self.tau = start, end, tau
        self._half = (end - start) / (2 * tau)
        self._offset = log(cosh(start / (2 * tau)) / cosh(end / (2 * tau)))

    def log_snr(self, t: Tensor) -> Tensor:
        return torch.log(torch.sinh((1 - t) * self._half)) - torch.log(torch.sinh(t * self._half)) + self._offset

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        ratio = torch.exp(log_snr - self._offset)  # sinh((1 - t) h) / sinh(t h) = sinh(h) coth(t h) - cosh(h)
        return torch.log1p(2 * sinh(self._half) / (ratio + exp(-self._half))) / (2 * self._half)


class Laplace(VariancePreserving):
    r"""log_snr = mu - b sgn(1/2 - t) log(1 - 2 |t - 1/2|), variance preserving: with t uniform, log-SNR is Laplace.

    Hang & Gu 2024 (arXiv:2407.03297, table 1), whose b = 0.5 concentrates training where data and noise are balanced.
    Their t runs as ours does, from data to noise. SNR falls as t^{-b} near data, so steps that are uniform in t remove
    the last noise at order b: sample a model of b < 1 on another schedule.

    Raises ``UserError`` unless b is positive.
    """

    def __init__(self, mu: float = 0.0, b: Positive = 0.5):
        if b <= 0:
            raise UserError(f"Laplace got the scale b = {b}; choose one above 0.")
        self.mu = mu
        self.b = b

    def log_snr(self, t: Tensor) -> Tensor:
        return self.mu + self.b * torch.where(t < 0.5, -torch.log(2 * t), torch.log(2 * (1 - t)))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        tail = torch.exp(-(log_snr - self.mu).abs() / self.b) / 2
        return torch.where(log_snr > self.mu, tail, 1 - tail)


class Karras(Schedule):
    r"""EDM's noise levels: alpha_t = 1, sigma_t = (sigma_min^{1/rho} + t (sigma_max^{1/rho} - sigma_min^{1/rho}))^rho.

    A uniform grid in t is the time grid of Karras et al. 2022 (arXiv:2206.00364, eq. 5).
    """

    def __init__(self, sigma_min: Positive = 0.002, sigma_max: Positive = 80.0, rho: Positive = 7.0):
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self._low = sigma_min ** (1 / rho)
        self._high = sigma_max ** (1 / rho)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return (self._low + t * (self._high - self._low)) ** self.rho

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * self.rho * torch.log(self._low + t * (self._high - self._low))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return (torch.exp(-log_snr / (2 * self.rho)) - self._low) / (self._high - self._low)
