"""The learned reverse process: D(x_t, t, cond) = E[x | x_t, cond], the only thing that losses and samplers call."""

from typing import Protocol

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.parameterization import Parameterization
from oboro.schedule import Schedule, expand_as

Cond = dict[str, Tensor]
NEGATIVE = "negative_"  # such keys are the condition that guidance goes away from, and not for the network


class Denoises(Protocol):
    """Anything with a schedule that maps (x_t (B, ...), t (B,), cond) to x̂0 (B, ...): a network, a guided one, an exact
    one."""

    @property
    def schedule(self) -> Schedule: ...

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor: ...

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """x̂0 and v, both (B, ...), of one evaluation: v says where in its range the reverse variance lies, in the
        logarithm (``oboro.sampler.Posterior``). Only the sampler and the loss of learned variances ask for it."""


class Denoiser(nn.Module):
    """x̂0 = c_skip x_t + c_out F(c_in x_t, c_noise, cond), with the coefficients at (alpha_t, sigma_t).

    F is the first C channels of the network's output, for x_t of C channels. A network with 2 C gives a variance, too.

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
        return self._evaluated(x_t, t, cond)[0]

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """x̂0 and v = (output + 1) / 2 of the other C channels, both (B, C, ...).

        Nichol & Dhariwal 2021 (arXiv:2102.09672, eq. 15). v is not held in [0, 1]. Raises ``UserError`` for a network
        that has C channels alone.
        """
        x0, others = self._evaluated(x_t, t, cond)
        if others.shape != x_t.shape:
            raise UserError(
                f"{type(self.network).__name__} predicts no variance; train it with model.learned_variance=true and "
                "loss=hybrid, or choose another loss and another sampler, like ddim_ancestral."
            )
        return x0, (others + 1) / 2

    def _evaluated(self, x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """x̂0, and the channels of the output that it did not take."""
        c = self.parameterization(*self.schedule(t))
        asked = {key: value for key, value in cond.items() if not key.startswith(NEGATIVE)}
        output = self.network(expand_as(c.c_in, x_t) * x_t, c.c_noise, asked).to(x_t.dtype)
        channels = x_t.shape[1]
        x0 = expand_as(c.c_skip, x_t) * x_t + expand_as(c.c_out, x_t) * output[:, :channels]
        return x0, output[:, channels:]

    def reschedule(self, schedule: Schedule) -> "Denoiser":
        """The same network on another schedule: D depends on x_t / alpha_t and the log-SNR alone."""
        return Denoiser(self.network, schedule, self.parameterization)
