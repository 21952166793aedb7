"""The denoising loss E_{t ~ p(t), eps} w(t) |D(x_t, t, cond) - x|², per sample."""

from abc import ABC, abstractmethod
from math import log

import torch
from torch import Tensor

from oboro.denoiser import Cond, Denoiser
from oboro.schedule import Schedule, expand_as

# Below this time the weights 1/c_out² divide rounding errors of float32 by ever smaller noise.
T_MIN = 1e-5


class TimeDistribution(ABC):
    """p(t), by inversion: ``quantile`` maps u in (0, 1) to t, so that the caller decides how u is drawn."""

    @abstractmethod
    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """t of the shape of ``u``; may leave [0, 1], the loss clamps it."""


class UniformT(TimeDistribution):
    """t ~ U(0, 1)."""

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return u


class LogNormalSigma(TimeDistribution):
    """log(sigma / alpha) ~ N(mean, std²): EDM (arXiv:2206.00364, table 1, P_mean = -1.2 and P_std = 1.2)."""

    def __init__(self, mean: float = -1.2, std: float = 1.2):
        self.mean = mean
        self.std = std

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.t_from_log_snr(-2 * (self.mean + self.std * torch.special.ndtri(u)))


class LogitNormal(TimeDistribution):
    """log(t / (1 - t)) ~ N(loc, scale²): Esser et al. 2024 (arXiv:2403.03206, eq. 19)."""

    def __init__(self, loc: float = 0.0, scale: float = 1.0):
        self.loc = loc
        self.scale = scale

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.sigmoid(self.loc + self.scale * torch.special.ndtri(u))


class Weight(ABC):
    """w(t) on the squared error of x̂0, given log-SNR and the c_out of the denoiser's parameterization."""

    @abstractmethod
    def __call__(self, log_snr: Tensor, c_out: Tensor) -> Tensor:
        """Of the shape of ``log_snr`` (B,)."""


class Uniform(Weight):
    """w = 1 / c_out²: plain mean squared error on the network's own target. L_simple of DDPM when that is eps."""

    def __call__(self, log_snr: Tensor, c_out: Tensor) -> Tensor:
        return c_out**-2


class SNR(Weight):
    """w = alpha² / sigma²: mean squared error on eps, whatever the network predicts."""

    def __call__(self, log_snr: Tensor, c_out: Tensor) -> Tensor:
        return torch.exp(log_snr)


class MinSNR(Weight):
    """w = min(alpha² / sigma², gamma): Hang et al. 2023 (arXiv:2303.09556, eq. 8)."""

    def __init__(self, gamma: float = 5.0):
        self.gamma = gamma

    def __call__(self, log_snr: Tensor, c_out: Tensor) -> Tensor:
        return torch.exp(log_snr.clamp(max=log(self.gamma)))


class EDMWeight(Weight):
    """w = (sigma̅² + sigma_data²) / (sigma̅ sigma_data)² with sigma̅ = sigma / alpha (arXiv:2206.00364, table 1)."""

    def __init__(self, sigma_data: float = 0.5):
        self.sigma_data = sigma_data

    def __call__(self, log_snr: Tensor, c_out: Tensor) -> Tensor:
        return torch.exp(log_snr) + self.sigma_data**-2


class Denoising:
    """w(t) mean((D(x_t, t, cond) - x)²) with t ~ p(t), one number per sample."""

    def __init__(self, time: TimeDistribution, weighting: Weight):
        self.time = time
        self.weighting = weighting

    def __call__(self, denoiser: Denoiser, x: Tensor, cond: Cond, generator: torch.Generator) -> Tensor:
        """Loss (B,) of ``x`` (B, ...); t and eps are drawn from ``generator``, on its own device."""
        u = torch.rand(len(x), generator=generator, device=generator.device)
        eps = torch.randn(x.shape, generator=generator, device=generator.device)
        return self.at_quantile(denoiser, x, cond, u.to(x), eps.to(x))

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Cond, u: Tensor, eps: Tensor) -> Tensor:
        """Loss (B,) at the quantiles ``u`` (B,) of p(t) and the noise ``eps`` (B, ...)."""
        u = u.clamp(2**-25, 1 - 2**-24)  # normal quantiles are infinite at both ends, and inf / inf on the way to t NaN
        t = self.time.quantile(u, denoiser.schedule).clamp(T_MIN, 1)
        alpha, sigma = denoiser.schedule(t)
        x_t = expand_as(alpha, x) * x + expand_as(sigma, x) * eps
        error = (denoiser(x_t, t, cond) - x).square().flatten(1).mean(1)
        c_out = denoiser.parameterization(alpha, sigma).c_out
        return self.weighting(denoiser.schedule.log_snr(t), c_out) * error
