"""The learned reverse process: D(x_t, t, cond) = E[x | x_t, cond], the only thing that losses and samplers call."""

from typing import Protocol

import torch
from torch import Tensor, nn

from oboro.errors import UserError
from oboro.parameterization import Parameterization
from oboro.schedule import Schedule, expand_as

Cond = dict[str, Tensor]


class Denoises(Protocol):
    """Anything with a schedule that maps (x_t (B, ...), t (B,), cond) to x̂0 (B, ...): a network, a guided one, an exact
    one."""

    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor: ...


class Denoiser(nn.Module):
    """x̂0 = c_skip x_t + c_out F(c_in x_t, c_noise, cond), with the coefficients at (alpha_t, sigma_t).

    Raises ``UserError`` where the parameterization is undefined at an end of the schedule (eps without signal).
    """

    def __init__(self, network: nn.Module, schedule: Schedule, parameterization: Parameterization):
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        end = parameterization(*schedule(torch.ones(1, dtype=torch.float64, device="cpu")))
        if not all(bool(c.isfinite()) for c in end):
            raise UserError(
                f"{type(parameterization).__name__} is undefined at t = 1 of {type(schedule).__name__}, where no "
                "signal is left; choose parameterization=v, velocity or edm, or schedule=vp."
            )

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        c = self.parameterization(*self.schedule(t))
        prediction = self.network(expand_as(c.c_in, x_t) * x_t, c.c_noise, cond).to(x_t.dtype)
        return expand_as(c.c_skip, x_t) * x_t + expand_as(c.c_out, x_t) * prediction

    def reschedule(self, schedule: Schedule) -> "Denoiser":
        """The same network on another schedule: D depends on x_t / alpha_t and the log-SNR alone."""
        return Denoiser(self.network, schedule, self.parameterization)


class GaussianDenoiser(nn.Module):
    """The exact denoiser of data N(mean, std²), elementwise; for tests and for teaching.

    D(x_t, t) = mean + alpha std² / (alpha² std² + sigma²) (x_t - alpha mean).
    """

    def __init__(self, mean: float | Tensor, std: float | Tensor, schedule: Schedule):
        super().__init__()
        self.mean = mean
        self.std = std
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha, sigma = self.schedule(expand_as(t, x_t))
        return self.mean + alpha * self.std**2 / ((alpha * self.std) ** 2 + sigma**2) * (x_t - alpha * self.mean)

    def flow(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The exact probability-flow map from time ``t`` (B,) to ``s`` (B,).

        x_s = alpha_s mean + sqrt(alpha_s² std² + sigma_s²) / sqrt(alpha_t² std² + sigma_t²) (x_t - alpha_t mean): the
        ODE of Song et al. 2021 (arXiv:2011.13456, eq. 13) keeps the quantile of every marginal.
        """
        (a, sigma_t), (b, sigma_s) = self.schedule(expand_as(t, x_t)), self.schedule(expand_as(s, x_t))
        ratio = torch.sqrt(((b * self.std) ** 2 + sigma_s**2) / ((a * self.std) ** 2 + sigma_t**2))
        return b * self.mean + ratio * (x_t - a * self.mean)
