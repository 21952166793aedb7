"""The three forward processes of Song et al. 2021 (arXiv:2011.13456), by the marginals of their SDEs."""

from math import log

import torch
from torch import Tensor

from oboro.base.ranges import NonNegative, Positive
from oboro.schedule.schedule import Schedule


class LinearBeta:
    """B(t), the integral of beta_min + s (beta_max - beta_min) over s from 0 to t, and its inverse."""

    def __init__(self, beta_min: float, beta_max: float):
        self.beta_min = beta_min
        self.slope = beta_max - beta_min

    def __call__(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + self.slope / 2 * t)

    def inverse(self, integral: Tensor) -> Tensor:
        """The form of the quadratic formula that does not cancel for small ``integral``."""
        return 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * self.slope * integral))


class VP(Schedule):
    r"""Variance preserving with linear beta: the continuous limit of DDPM.

    alpha_t² = exp(-B(t)), sigma_t² = 1 - exp(-B(t)), B(t) = beta_min t + (beta_max - beta_min) t² / 2.
    Song et al. 2021 (arXiv:2011.13456, eq. 32-33); DDPM's 1000 betas from 1e-4 to 0.02 (arXiv:2006.11239, sec. 4) are
    beta_min = 0.1, beta_max = 20 divided by the number of steps, and ``DDPM`` is that table itself.
    """

    def __init__(self, beta_min: NonNegative = 0.1, beta_max: Positive = 20.0):
        self.beta_min, self.beta_max = beta_min, beta_max
        self._integral = LinearBeta(beta_min, beta_max)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def log_snr(self, t: Tensor) -> Tensor:
        return -torch.log(torch.expm1(self._integral(t)))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return self._integral.inverse(torch.nn.functional.softplus(-log_snr, threshold=100))


class SubVP(Schedule):
    r"""The sub-VP process: alpha_t of ``VP`` and the square of its noise, so that alpha² + sigma² <= 1.

    alpha_t = exp(-B(t) / 2), sigma_t = 1 - exp(-B(t)), log_snr = -2 log(2 sinh(B(t) / 2)), B(t) as in ``VP``.
    Song et al. 2021 (arXiv:2011.13456, eq. 28-29). sigma_t² falls with t² near data where that of ``VP`` falls with t.
    """

    def __init__(self, beta_min: NonNegative = 0.1, beta_max: Positive = 20.0):
        self.beta_min, self.beta_max = beta_min, beta_max
        self._integral = LinearBeta(beta_min, beta_max)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(2 * torch.sinh(self._integral(t) / 2))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        ratio = torch.exp((-log_snr / 2).clamp(max=80))  # far beyond the end, and finite in float32
        return self._integral.inverse(2 * torch.asinh(ratio / 2))


class VE(Schedule):
    r"""Variance exploding: alpha_t = 1, sigma_t = sigma_min (sigma_max / sigma_min)^t.

    Song et al. 2021 (arXiv:2011.13456, eq. 30-31); sigma_max = 50 is theirs for CIFAR-10. This is the kernel that they
    train with, sigma_min of noise included at t = 0. Their SDE, started in data at t = 0, has the variance
    sigma_t² - sigma_min² (the general kernel of their eq. 29): the jump from 0 to sigma_min is no part of it.
    """

    def __init__(self, sigma_min: Positive = 0.01, sigma_max: Positive = 50.0):
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self._log_ratio = log(sigma_max / sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(t * self._log_ratio)

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(self.sigma(t))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return (-log_snr / 2 - log(self.sigma_min)) / self._log_ratio
