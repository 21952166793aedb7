"""The learned reverse process: D(x_t, t, cond) = E[x | x_t, cond], the only thing that losses and samplers call."""

from typing import Protocol

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.condition import Condition, check_read
from oboro.parameterization import Parameterization
from oboro.schedule import Schedule, expand_as


class Denoises(Protocol):
    """Anything with a schedule that maps (x_t (B, ...), t (B,), cond) to x̂0 (B, ...): a network, a guided one, an exact
    one."""

    @property
    def schedule(self) -> Schedule: ...

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor: ...

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """x̂0 and v, both (B, ...), of one evaluation: v says where in its range the reverse variance lies, in the
        logarithm (``oboro.sampler.Posterior``). Only the sampler and the loss of learned variances ask for it."""

    def towards(self, alpha: float | Tensor, sigma: float | Tensor) -> "Denoises":
        """The denoiser whose x̂0, put into the step of DDIM from t to s = (``alpha``, ``sigma``), each a number or (B,),
        lands where the model holds x_s of the flow to be. One that knows means alone, so all but flow maps, is itself.

        The x̂0 that lands on a given x_s is unique: (x_s - r x_t) / (alpha_s - r alpha_t), r = sigma_s / sigma_t. It is
        x_s itself for s = data, so consistency models are flow maps; it is x_t - t u on the linear schedule with the
        mean velocity u of MeanFlow and shortcut models, and g of CTM (arXiv:2310.02279); with s → t it becomes the
        mean, which a flow map gives when it is called without an end. So parameterizations, guidance and samplers of
        denoisers serve flow maps unchanged.

        The end is (alpha, sigma) and not a time: exact data, (1, 0), have no time on schedules with sigma_0 > 0, steps
        with fresh noise end beside the schedule, and a model that sees log-SNR alone goes with any schedule.
        """
        return self


class Denoiser(nn.Module):
    """x̂0 = c_skip x_t + c_out F(c_in x_t, c_noise, cond.signals), with the coefficients at (alpha_t, sigma_t).

    F is the first C channels of the network's output, for x_t of C channels. A network with 2 C gives a variance, too.

    Raises ``UserError`` where the parameterization is undefined at an end of the schedule (eps without signal), and,
    when it is called, for a signal that the network does not read.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, parameterization: Parameterization):
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        end = schedule(torch.ones(1, dtype=torch.float64, device="cpu"))
        parameterization.require_defined(*end, f"t = 1 of {type(schedule).__name__}")

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self._evaluated(x_t, t, cond)[0]

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
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

    def towards(self, alpha: float | Tensor, sigma: float | Tensor) -> "Denoiser":
        return self

    def _evaluated(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """x̂0, and the channels of the output that it did not take."""
        c = self.parameterization(*self.schedule(t))
        check_read(cond.signals, self.network)
        signals = {name: signal.at(t) for name, signal in cond.signals.items()}
        output = self.network(expand_as(c.c_in, x_t) * x_t, c.c_noise, signals).to(x_t.dtype)
        channels = x_t.shape[1]
        x0 = expand_as(c.c_skip, x_t) * x_t + expand_as(c.c_out, x_t) * output[:, :channels]
        return x0, output[:, channels:]

    def bottleneck(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The activation in the middle of a network that has one, (B, network.bottleneck_channels, ...)."""
        c = self.parameterization(*self.schedule(t))
        check_read(cond.signals, self.network)
        signals = {name: signal.at(t) for name, signal in cond.signals.items()}
        return self.network.bottleneck(expand_as(c.c_in, x_t) * x_t, c.c_noise, signals)

    def reschedule(self, schedule: Schedule) -> "Denoiser":
        """The same network on another schedule: D depends on x_t / alpha_t and the log-SNR alone."""
        return Denoiser(self.network, schedule, self.parameterization)
