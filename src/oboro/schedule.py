"""The forward process: how an image dissolves into noise.

A schedule is the map t ↦ (alpha_t, sigma_t) of ``x_t = alpha_t x + sigma_t eps`` with t = 0 data and t = 1 noise.
Everything else here follows from it: the log signal-to-noise ratio ``log_snr(t) = log(alpha_t² / sigma_t²)``, its
inverse, and ``add_noise``. All maps are elementwise, keep the type of ``t`` and accept any shape.
"""

from abc import ABC, abstractmethod
from math import log, pi

import torch
from torch import Tensor


def expand_as(t: Tensor, x: Tensor) -> Tensor:
    """``t`` (B,) with as many trailing ones as ``x`` (B, ...) has dimensions."""
    return t.view(-1, *(1,) * (x.ndim - 1))


class Schedule(ABC):
    """t ↦ (alpha_t, sigma_t); subclasses give ``alpha``, ``sigma``, ``log_snr`` and its inverse in closed form."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale alpha_t, non-increasing in t, alpha_0 = 1."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale sigma_t, increasing in t."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha_t² / sigma_t²), strictly decreasing in t; +inf where sigma_t = 0 and -inf where alpha_t = 0."""

    @abstractmethod
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """The inverse of ``log_snr``. Values beyond the schedule's own range lead outside of [0, 1]."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.alpha(t), self.sigma(t)

    def add_noise(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha_t x + sigma_t eps for ``x``, ``eps`` (B, ...) and ``t`` (B,)."""
        alpha, sigma = self(expand_as(t, x))
        return alpha * x + sigma * eps

    def prior(self, eps: Tensor) -> Tensor:
        """Where sampling starts: ``x_1 = sigma_1 eps``, with the residual signal alpha_1 x neglected."""
        return eps * float(self.sigma(torch.ones((), dtype=torch.float64, device="cpu")))


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
    (arXiv:2202.00512, sec. 4). Like ``Linear`` it ends without any signal.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin((1 - t) * (pi / 2))  # equals cos(pi t / 2), and is exactly 0 at t = 1

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * (pi / 2))

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) * (2 / pi)


class VP(Schedule):
    r"""Variance preserving with linear beta: the continuous limit of DDPM.

    alpha_t² = exp(-B(t)), sigma_t² = 1 - exp(-B(t)), B(t) = beta_min t + (beta_max - beta_min) t² / 2.
    Song et al. 2021 (arXiv:2011.13456, eq. 32-33); DDPM's 1000 betas from 1e-4 to 0.02 (arXiv:2006.11239, sec. 4) are
    beta_min = 0.1, beta_max = 20 divided by the number of steps.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        self.beta_min = beta_min
        self.beta_max = beta_max

    def _integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + (self.beta_max - self.beta_min) / 2 * t)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.log(torch.expm1(self._integral(t)))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        integral = torch.nn.functional.softplus(-log_snr, threshold=100)
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (self.beta_min + root)


class Karras(Schedule):
    r"""EDM's noise levels: alpha_t = 1, sigma_t = (sigma_min^{1/rho} + t (sigma_max^{1/rho} - sigma_min^{1/rho}))^rho.

    A uniform grid in t is the time grid of Karras et al. 2022 (arXiv:2206.00364, eq. 5).
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0):
        self.rho = rho
        self.low = sigma_min ** (1 / rho)
        self.high = sigma_max ** (1 / rho)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return (self.low + t * (self.high - self.low)) ** self.rho

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * self.rho * torch.log(self.low + t * (self.high - self.low))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return (torch.exp(-log_snr / (2 * self.rho)) - self.low) / (self.high - self.low)


class VE(Schedule):
    r"""Variance exploding: alpha_t = 1, sigma_t = sigma_min (sigma_max / sigma_min)^t.

    Song et al. 2021 (arXiv:2011.13456, eq. 30-31); sigma_max = 50 is theirs for CIFAR-10.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0):
        self.sigma_min = sigma_min
        self.log_ratio = log(sigma_max / sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(t * self.log_ratio)

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(self.sigma(t))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return (-log_snr / 2 - log(self.sigma_min)) / self.log_ratio
