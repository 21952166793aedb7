"""Classifier-free guidance and its relatives: the same network with and without its condition.

Steering in eps, v or x̂0 is the same map where the weights add up to one, because c_skip and c_out are shared by both
branches; it is done on x̂0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from oboro.base.ranges import CountOrNone, Share
from oboro.condition import Condition, Label, Signal
from oboro.denoiser import Denoises
from oboro.guidance.extrapolation import Extrapolated
from oboro.guidance.guidance import DenoiserWrapper, Guidance, Guided
from oboro.guidance.weight import CONSTANT, Constant, Weight
from oboro.sampler import Node
from oboro.schedule import expand_as

NOISE = 0.1  # alpha / sigma up to which a walk begins with noise alone


class ClassifierFree(Guidance):
    """D' = D_c + (scale - 1) w(t) (D_c - D_∅), with D_c = D(x_t, cond) and D_∅ = D(x_t, no condition).

    Ho & Salimans 2022 (arXiv:2207.12598, eq. 6 with scale = 1 + w). scale = 1 is the conditional model at the cost of
    one evaluation, scale = 0 with w = 1 the unconditional one. Needs a model trained with its condition dropped.

    ``rescale`` = phi turns D' into (phi std(D_c) / std(D') + 1 - phi) D', with std over each sample: Lin et al. 2023
    (arXiv:2305.08891, eq. 15-16, there on the network's output). ``negative`` replaces no condition by a class to go
    away from, by the name of the label: {label: 3}. ``Condition.away`` does so for each sample on its own, and for
    signals of every kind.
    """

    def __init__(
        self,
        scale: float = 2.0,
        weight: Weight = CONSTANT,
        rescale: Share = 0.0,
        negative: Mapping[str, CountOrNone] | None = None,
    ):
        self.scale = scale
        self.weight = weight
        self.rescale = rescale
        self.negative = dict(negative or {})

    @property
    def drops(self) -> bool:
        return self.scale != 1 and not self.negative

    @property
    def idle(self) -> Sequence[str]:
        made = {"negative": self.negative, "rescale": self.rescale, "weight": not isinstance(self.weight, Constant)}
        return [key for key, value in made.items() if value] if self.scale == 1 else ()

    @property
    def reads(self) -> Mapping[str, type[Signal]]:
        return dict.fromkeys(self.negative, Label)

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return denoiser if self.scale == 1 else self.at_scale(denoiser, self.scale)

    def at_scale(self, denoiser: Denoises, scale: float | Tensor) -> Denoises:
        """D' with ``scale``, a number or one for each sample (B,), in the place of the own one."""
        return Extrapolated(denoiser, Opposite(denoiser, self.negative), scale, self.weight, self.rescale)


class Opposite(DenoiserWrapper):
    """The denoiser under the condition to go away from."""

    def __init__(self, denoiser: Denoises, negative: Mapping[str, int]):
        super().__init__(denoiser)
        self.negative = negative

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.denoiser(x_t, t, opposite(cond, self.negative))

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        return self.denoiser.with_variance(x_t, t, opposite(cond, self.negative))


def opposite(cond: Condition, negative: Mapping[str, int] | None = None) -> Condition:
    """The condition to go away from: the class ``negative`` for every sample, ``cond.away``, or none. Signals that stay
    (``Signal.stays``) are in both."""
    labels = {name: cond.signals[name].index for name in negative or {}}  # type: ignore[attr-defined]
    classes = {name: Label(torch.full_like(index, (negative or {})[name])) for name, index in labels.items()}
    left = [name for name, signal in cond.signals.items() if not signal.stays]
    return replace(cond, away={**cond.away, **classes}).without(*left)


class CFGPP(Guidance):
    """CFG++: x̂0 of classifier-free guidance with ``scale`` in [0, 1], fresh noise of the unconditional model.

    A step of DDIM then is x_s = alpha_s D_λ + sigma_s / sigma_t (x_t - alpha_t D_∅) with D_λ = D_∅ + scale (D_c - D_∅):
    DDIM with D' = D_∅ + scale / (1 - rho_s / rho_t) (D_c - D_∅), rho = sigma / alpha, and that is what other samplers
    get, too. Chung et al. 2024 (arXiv:2406.08070, algorithm 2). s is the node of the grid after t.

    On the way up the factor is scale / (1 - rho_t / rho_s), so that
    x_s = alpha_s D_∅ + sigma_s / sigma_t (x_t - alpha_t D_λ): the step down from s solved for its start.
    """

    def __init__(self, scale: float = 0.6):
        self.scale = scale

    @property
    def drops(self) -> bool:
        return True

    @property
    def stepwise(self) -> bool:
        return True

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return CFGPPDenoiser(denoiser, self.scale, grid)


class CFGPPDenoiser(Guided):
    """The denoiser that ``CFGPP`` makes."""

    def __init__(self, denoiser: Denoises, scale: float, grid: Sequence[Node]):
        super().__init__(denoiser)
        self.scale = scale
        self.grid = list(grid)

    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        unconditional = self.denoiser(x_t, t, opposite(cond))
        kept = torch.tensor([self._kept(v) for v in t.tolist()]).to(x_t)
        return unconditional + expand_as(self.scale / (1 - kept), x_t) * (conditional - unconditional)

    def _kept(self, t: float) -> float:
        """The smaller of rho_s and rho_t over the larger, for the step that begins at or contains ``t``; times of the
        grid may come back in float32."""
        alpha, sigma = (float(c) for c in self.schedule(torch.tensor(t, dtype=torch.float64)))
        if self.grid[0].t < self.grid[-1].t:
            following = next((node for node in self.grid if node.t > t + 1e-6), self.grid[-1])
            return sigma * following.alpha / (alpha * following.sigma)
        following = next((node for node in self.grid if node.t < t - 1e-6), self.grid[-1])
        return following.ratio * alpha / sigma


class CFGZeroStar(Guidance):
    """Classifier-free guidance of the velocity v = eps̃ - x̂0 with the unconditional one fitted to the conditional.

    v' = s v_∅ + scale (v_c - s v_∅) with s = <v_c, v_∅> / |v_∅|² of each sample, and v' = 0 in the first ``zero_steps``
    steps: Fan et al. 2025 (arXiv:2503.18886, algorithm 1), made for flow matching. A walk that begins with more signal
    than ``NOISE``, so with an image, or that rises, has no such steps.
    """

    def __init__(self, scale: float = 2.0, zero_steps: CountOrNone = 1):
        self.scale = scale
        self.zero_steps = zero_steps

    @property
    def drops(self) -> bool:
        return True

    @property
    def stepwise(self) -> bool:
        return True

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        from_noise = len(grid) > 0 and grid[0].alpha <= NOISE * grid[0].sigma
        still = grid[self.zero_steps - 1].t if from_noise and 0 < self.zero_steps < len(grid) else 2.0
        return CFGZeroStarDenoiser(denoiser, self.scale, still)


class CFGZeroStarDenoiser(Guided):
    """The denoiser that ``CFGZeroStar`` makes; at ``still`` and before nothing moves."""

    def __init__(self, denoiser: Denoises, scale: float, still: float):
        super().__init__(denoiser)
        self.scale = scale
        self.still = still

    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        alpha, sigma = self.schedule(expand_as(t, x_t))
        v_c, v_u = ((x_t - (alpha + sigma) * x0) / sigma for x0 in (conditional, self.denoiser(x_t, t, opposite(cond))))
        product, square = ((v_u * v).flatten(1).sum(1) for v in (v_c, v_u))
        v_u = expand_as(product / square, x_t) * v_u
        v = torch.where(expand_as(t, x_t) >= self.still - 1e-6, 0.0, v_u + self.scale * (v_c - v_u))
        return (x_t - sigma * v) / (alpha + sigma)
