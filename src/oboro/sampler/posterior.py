"""The Gaussian steps of ancestral sampling: q(x_s | x_t, x), and the range of the variance of p(x_s | x_t)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from oboro.sampler.node import Node
from oboro.schedule import expand_as


class Posterior(NamedTuple):
    """q(x_s | x_t, x) = N(c_x x + c_t x_t, e^low I) of steps t → s, and e^high ≥ e^low, the variance for wide data.

    With sigma_{t|s}² = sigma_t² - (alpha_t / alpha_s)² sigma_s², the variance of q(x_t | x_s),

        c_x = alpha_s sigma_{t|s}² / sigma_t²      c_t = alpha_t sigma_s² / (alpha_s sigma_t²)
        e^low = sigma_{t|s}² sigma_s² / sigma_t²   e^high = sigma_{t|s}² (alpha_s² + sigma_s²) / (alpha_t² + sigma_t²).

    They are the variances of p(x_s | x_t) for data that are a single point, and for data N(0, I); of data between the
    two it lies between. Where alpha² + sigma² = 1, e^high = sigma_{t|s}² is the beta_t and e^low the beta~_t of DDPM
    (arXiv:2006.11239, eq. 7), and the range that of Nichol & Dhariwal 2021 (arXiv:2102.09672, eq. 15). On every
    schedule high - low = log(1 + SNR_s) - log(1 + SNR_t), so one network serves all of them.
    """

    c_x: Tensor
    c_t: Tensor
    low: Tensor
    high: Tensor

    def at(self, step: Tensor, like: Tensor) -> "Posterior":
        """Rows ``step`` (B,) or (1,) of a table of steps, shaped and typed to go with ``like`` (B, ...)."""
        c_x, c_t, low, high = (expand_as(c.to(like)[step.to(like.device)], like) for c in self)
        return Posterior(c_x, c_t, low, high)

    def mean(self, x0: Tensor, x_t: Tensor) -> Tensor:
        return self.c_x * x0 + self.c_t * x_t

    def log_variance(self, v: Tensor) -> Tensor:
        """log sigma_theta² = v high + (1 - v) low (arXiv:2102.09672, eq. 15)."""
        return self.low + v * (self.high - self.low)


def posteriors(grid: Sequence[Node]) -> Posterior:
    """The len(grid) - 1 steps of ``grid``, in its order; float64 on the CPU.

    A step to sigma_s = 0 has variance 0 for a single point: there ``low`` is that of the step before, as in the paper's
    code, and that of e^high where there is none.
    """
    _, alpha, sigma = torch.tensor(grid, dtype=torch.float64, device="cpu").unbind(1)
    (a, b), (sigma_t, sigma_s) = (alpha[:-1], alpha[1:]), (sigma[:-1], sigma[1:])
    gain = a * sigma_s / (b * sigma_t)
    lost = 1 - gain**2  # sigma_{t|s}² / sigma_t²
    low = torch.log(lost * sigma_s**2)
    high = torch.log(lost * (b**2 + sigma_s**2) * sigma_t**2 / (a**2 + sigma_t**2))
    before = torch.cat([high[:1], low[:-1]])
    low = torch.where(sigma_s > 0, low, before)
    return Posterior(b * lost, gain * sigma_s / sigma_t, low, high)
