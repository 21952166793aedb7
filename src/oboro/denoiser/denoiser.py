"""The learned reverse process: D(x_t, t, cond) = E[x | x_t, cond], the only thing that losses and samplers call."""

from collections.abc import Hashable
from dataclasses import dataclass
from math import pi
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.condition import Condition, End, GuidanceScale, Signals, check_read, kinds_read
from oboro.denoiser.times import shared
from oboro.parameterization import Coefficients, Parameterization
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


KNOWN = 4096  # times whose coefficients are kept
Ends = tuple[float | Tensor, float | Tensor]  # (alpha, sigma), each a number or (B,)
Level = tuple[Tensor, Tensor]  # (alpha, sigma), each (B,)


class Denoiser(nn.Module):
    """x̂0 = c_skip x_t + c_out F(c_in x_t, c_noise, cond.signals), with the coefficients at (alpha_t, sigma_t).

    F is the first C channels of the network's output, for x_t of C channels. A network with 2 C gives a variance, too.

    A network that reads ``end`` makes it a flow map (``Denoises.towards``), whose end without a word is x_t itself: the
    mean. With ``Velocity`` on ``Linear`` F is then the mean velocity u(x_t, s, t) of MeanFlow.

    Raises ``UserError`` where the parameterization is undefined at an end of the schedule (eps without signal), and,
    when it is called, for a signal that the network does not read.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, parameterization: Parameterization):
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self._known: dict[Hashable, tuple[Level, Coefficients]] = {}
        end = schedule(torch.ones(1, dtype=torch.float64, device="cpu"))
        parameterization.require_defined(*end, f"t = 1 of {type(schedule).__name__}")

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition, end: Ends | None = None) -> Tensor:
        return self._evaluated(x_t, t, cond, end)[0]

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition, end: Ends | None = None) -> tuple[Tensor, Tensor]:
        """x̂0 and v = (output + 1) / 2 of the other C channels, both (B, C, ...).

        Nichol & Dhariwal 2021 (arXiv:2102.09672, eq. 15). v is not held in [0, 1]. Raises ``UserError`` for a network
        that has C channels alone.
        """
        x0, others = self._evaluated(x_t, t, cond, end)
        if others.shape != x_t.shape:
            raise UserError(
                f"{type(self.network).__name__} predicts no variance; train it with model.learned_variance=true and "
                "loss=hybrid, or choose another loss and another sampler, like ddim_ancestral."
            )
        return x0, (others + 1) / 2

    @property
    def reads_end(self) -> bool:
        """Whether it is a flow map."""
        return "end" in kinds_read(self.network)

    @property
    def reads_guidance_scale(self) -> bool:
        """Whether it answers as a guided denoiser does, at the scale of the condition, 1 where this says none."""
        return "guidance_scale" in kinds_read(self.network)

    def towards(self, alpha: float | Tensor, sigma: float | Tensor) -> "Denoiser | FlowMap":
        return FlowMap(self, (alpha, sigma)) if self.reads_end else self

    def combined(
        self, x_t: Tensor, t: Tensor, cond: Condition, p: Tensor, q: Tensor, end: Ends | None = None
    ) -> Tensor:
        """p x̂0 + q eps̃ (B, ...) for ``p``, ``q`` (B,), eps̃ = (x_t - alpha x̂0) / sigma: the answer in another
        parameterization, (-1, 1) the velocity.

        With the network's own (p', q'): ((p q' - q p') x_t + (q alpha - p sigma) F) / (q' alpha - p' sigma), which
        divides by no sigma.
        """
        (alpha, sigma), c = self._at(t)
        own_p, own_q = self.parameterization.target_weights(alpha, sigma)
        determinant = own_q * alpha - own_p * sigma
        c_x, c_f = (p * own_q - q * own_p) / determinant, (q * alpha - p * sigma) / determinant
        output = self._output(x_t, t, (alpha, sigma), c, cond, end)[:, : x_t.shape[1]]
        return expand_as(c_x, x_t) * x_t + expand_as(c_f, x_t) * output

    def bottleneck(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The activation in the middle of a network that has one, (B, network.bottleneck_channels, ...)."""
        network: Any = self.network
        return network.bottleneck(*self._inputs(x_t, t, *self._at(t), cond, None))

    def features(self, x_t: Tensor, t: Tensor, cond: Condition) -> list[Tensor]:
        """The last activation of each level of a U-Net, and that after its middle, (B, C_k, ...)."""
        network: Any = self.network
        return network.features(*self._inputs(x_t, t, *self._at(t), cond, None))

    def _at(self, t: Tensor) -> tuple[Level, Coefficients]:
        """(alpha, sigma) at ``t`` and what follows from them. Computing them takes as long as a small network, so that
        it is done once in an evaluation, and of a ``same_time`` once for all evaluations at it; these have one row."""
        value = shared(t)
        if value is None:
            level = self.schedule(t)
            return level, self.parameterization(*level)
        key = (value, t.dtype, t.device, self.schedule, self.parameterization)
        if key not in self._known:
            if len(self._known) >= KNOWN:
                self._known.clear()
            with torch.inference_mode(False), torch.no_grad():  # gradients may pass where these are multiplied
                level = self.schedule(torch.full((1,), value, dtype=t.dtype, device=t.device))
                self._known[key] = level, self.parameterization(*level)
        return self._known[key]

    def _output(
        self, x_t: Tensor, t: Tensor, level: Level, c: Coefficients, cond: Condition, end: Ends | None
    ) -> Tensor:
        """All channels of the network."""
        return self.network(*self._inputs(x_t, t, level, c, cond, end)).to(x_t.dtype)

    def _inputs(
        self, x_t: Tensor, t: Tensor, level: Level, c: Coefficients, cond: Condition, end: Ends | None
    ) -> tuple[Tensor, Tensor, Signals]:
        """What the network is called with; ``level`` and ``c`` are those of ``_at``."""
        check_read(cond.signals, self.network)
        signals, kinds = {name: signal.at(t) for name, signal in cond.signals.items()}, kinds_read(self.network)
        if "end" in kinds:
            a, b = (torch.as_tensor(e, dtype=t.dtype, device=t.device).expand_as(t) for e in end or level)
            signals["end"] = End(torch.atan2(b, a) * (2 / pi))
        if "guidance_scale" in kinds:
            signals = {"guidance_scale": GuidanceScale(torch.ones_like(t)), **signals}
        return expand_as(c.c_in, x_t) * x_t, c.c_noise.expand_as(t), signals

    def _evaluated(self, x_t: Tensor, t: Tensor, cond: Condition, end: Ends | None = None) -> tuple[Tensor, Tensor]:
        """x̂0, and the channels of the output that it did not take."""
        level, c = self._at(t)
        output = self._output(x_t, t, level, c, cond, end)
        channels = x_t.shape[1]
        x0 = expand_as(c.c_skip, x_t) * x_t + expand_as(c.c_out, x_t) * output[:, :channels]
        return x0, output[:, channels:]

    def reschedule(self, schedule: Schedule) -> "Denoiser":
        """The same network on another schedule: D depends on x_t / alpha_t and the log-SNR alone."""
        return Denoiser(self.network, schedule, self.parameterization)


@dataclass(frozen=True, eq=False)
class FlowMap:
    """``denoiser``, whose network reads an end, towards ``end``."""

    denoiser: Denoiser
    end: Ends

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def parameterization(self) -> Parameterization:
        return self.denoiser.parameterization

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.denoiser(x_t, t, cond, self.end)

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        return self.denoiser.with_variance(x_t, t, cond, self.end)

    def combined(self, x_t: Tensor, t: Tensor, cond: Condition, p: Tensor, q: Tensor) -> Tensor:
        return self.denoiser.combined(x_t, t, cond, p, q, self.end)

    def towards(self, alpha: float | Tensor, sigma: float | Tensor) -> "FlowMap":
        return FlowMap(self.denoiser, (alpha, sigma))


def combined(denoiser: Denoises, x_t: Tensor, t: Tensor, cond: Condition, p: Tensor, q: Tensor) -> Tensor:
    """p x̂0 + q eps̃ (B, ...) for ``p``, ``q`` (B,), as ``Denoiser.combined``; of others than a network's, from x̂0."""
    if isinstance(denoiser, Denoiser | FlowMap):
        return denoiser.combined(x_t, t, cond, p, q)
    alpha, sigma = denoiser.schedule(expand_as(t, x_t))
    x0 = denoiser(x_t, t, cond)
    return expand_as(p, x_t) * x0 + expand_as(q, x_t) * (x_t - alpha * x0) / sigma
