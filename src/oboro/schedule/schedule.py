"""What a schedule is, and what the variance-preserving ones share."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from oboro.base.precision import double


def expand_as(t: Tensor, x: Tensor) -> Tensor:
    """``t`` (B,) with as many trailing ones as ``x`` (B, ...) has dimensions."""
    return t.view(-1, *(1,) * (x.ndim - 1))


def in_float64(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """f(t), computed in float64 and rounded once to the type of ``t``: for maps that lose digits on the way."""
    return f(double(t)).to(t.dtype).to(t.device)


class Schedule(ABC):
    """t ↦ (alpha_t, sigma_t); subclasses give ``alpha``, ``sigma``, ``log_snr`` and the inverse of the last."""

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


class VariancePreserving(Schedule):
    """alpha² + sigma² = 1, so that log-SNR says all: alpha² = sigmoid(log_snr), sigma² = sigmoid(-log_snr).

    Kingma et al. 2021 (arXiv:2107.00630, eq. 4). Of use where log-SNR is the closed form; abstract.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.sigmoid(self.log_snr(t)))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.sigmoid(-self.log_snr(t)))
