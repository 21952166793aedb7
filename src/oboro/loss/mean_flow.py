"""MeanFlow, improved MeanFlow and alpha-Flow: the mean velocity of the flow between any two times."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from oboro.base.draws import rand, randn, replayed
from oboro.base.errors import UserError
from oboro.base.ranges import Positive, Scale, Scales, Share
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.guidance.embedded import scale_of
from oboro.loss.annealing import Annealing
from oboro.loss.coupling import Coupling
from oboro.loss.derivative import Derivative, along, root_mean_square
from oboro.loss.penalty import Penalty
from oboro.loss.straight import STRAIGHT, Straight, quantiles, straight_path, velocity
from oboro.loss.time import TimeDistribution
from oboro.schedule import expand_as
from oboro.teacher import Teacher


@dataclass(frozen=True)
class Pair:
    """Points of paths and what is learned there: z_t, its times t and r ≤ t (B,), the velocity that u is to agree with,
    and the condition."""

    z: Tensor
    t: Tensor
    r: Tensor
    v: Tensor
    cond: Condition

    @property
    def apart(self) -> Tensor:
        """Whether r < t (B,)."""
        return self.r < self.t


class MeanFlow(nn.Module):
    """penalty(u(z_t, r, t) - sg[v - (t - r) du/dt]) with du/dt along (dz, dr, dt) = (v, 0, 1).

    u is the mean velocity from t to r on straight paths (``Straight``) and v = eps - x: Geng et al. 2025
    (arXiv:2505.13447, eq. 6 to 11). It works on any schedule with any parameterization; with ``Velocity`` on ``Linear``
    u is the network itself, as in the paper. p(t) and p(r) are ``time`` and ``end_time`` on the linear schedule. In
    ``order`` = sorted t is the larger of two draws and r the smaller (the paper); in clipped r is min(r, t) (the
    authors' later code). A ``share`` of samples has r < t, the others r = t: plain flow matching.

    ``improved``: du/dt is along the network's own velocity u(z_t, t, t), and that learns v by the same penalty, too
    (Geng et al. 2025, arXiv:2512.02012, eq. 8 and 13, without a head of its own for the velocity).

    ``alpha``, a function of the step, annealed from 1 to 0: while it is positive, the target is
    alpha v + (1 - alpha) sg u(z_t - alpha (t - r) v, r, t - alpha (t - r)), so that training begins with flow matching
    and ends with MeanFlow (alpha-Flow, Zhang et al. 2025, arXiv:2510.20771, eq. 8 and 10). Its error is alpha times
    that of MeanFlow, so that squares count 1 / alpha times and others alpha^(2 power - 1) times, with the ``power`` of
    the penalty: gradients go to those of MeanFlow whatever it is.

    ``guidance_scale`` w > 1: v + (1 - 1/w) (u(z_t, t, t) - u(z_t, t, t without condition)) in the place of v, so that
    u is that of the flow under classifier-free guidance of scale w at one evaluation a step: MeanFlow's eq. 21 with
    omega = 1 and kappa = 1 - 1/w, improved MeanFlow's eq. 15. With ``guidance_scales``, the lowest and the highest, w
    is that of each sample's condition, which the network reads, too (improved MeanFlow, sec. 4.2). A ``teacher`` gives
    v, guided by its own guidance.

    ``clip`` bounds the absolute values of targets. Targets have the dropout masks of u and the weights of the moment.
    Raises ``UserError`` for a p(t) that follows the losses, and for more than one thing that says the scale.
    """

    teaches_variance = False
    teaches_jumps = False  # it knows means as well
    needs_end = True

    def __init__(
        self,
        time: TimeDistribution,
        end_time: TimeDistribution,
        penalty: Penalty,
        coupling: Coupling,
        share: Share = 0.75,
        order: Literal["sorted", "clipped"] = "sorted",
        derivative: Derivative = "exact",
        improved: bool = False,
        alpha: Annealing | None = None,
        guidance_scale: Scale = 1.0,
        clip: Positive | None = None,
        teacher: Teacher | None = None,
        guidance_scales: Scales | None = None,
    ):
        super().__init__()
        if time.adapts or end_time.adapts:
            raise UserError(
                "MeanFlow draws pairs of times, of which no p(t) follows the losses; set loss/time=uniform."
            )
        if teacher is not None and (guidance_scale > 1 or guidance_scales is not None):
            raise UserError(
                "the teacher is guided by loss.teacher already; leave loss.guidance_scale and loss.guidance_scales "
                "out, or set loss.teacher=null."
            )
        if guidance_scale > 1 and guidance_scales is not None:
            raise UserError("loss.guidance_scale and loss.guidance_scales are both set; leave one of them out.")
        self.time = time
        self.end_time = end_time
        self.penalty = penalty
        self.coupling = coupling
        self.share = share
        self.order = order
        self.derivative = derivative
        self.improved = improved
        self.alpha = alpha
        self.guidance_scale = guidance_scale
        self.guidance_scales = guidance_scales
        self.clip = clip
        self.teacher = teacher
        self.watched: dict[str, Tensor | float] = {}

    @property
    def evaluations(self) -> int | None:
        """An exact derivative counts twice, as its arithmetic does; None where alpha is annealed and steps differ."""
        return self._evaluations(0.0) if self.alpha is None else None

    def evaluations_until(self, steps: int) -> int:
        """Of a sample in each of the first ``steps`` steps together."""
        return sum(self._evaluations(0.0 if self.alpha is None else self.alpha(step)) for step in range(steps))

    def _evaluations(self, alpha: float) -> int:
        taught = 0 if self.teacher is None else self.teacher.evaluations
        target = 0 if alpha == 1 else 1 if alpha > 0 else 2
        return 1 + target + self.improved + 2 * self.guided + taught

    @property
    def guided(self) -> bool:
        """Whether the network is asked without its condition, too."""
        return self.guidance_scale > 1 or self.guidance_scales is not None

    def forward(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator, step: int = 0
    ) -> Tensor:
        """Objective (B,) of ``x`` (B, ...), for training; every draw is from ``generator``, on its own device."""
        u = [rand(x.shape[:1], generator).to(x) for _ in range(3)]
        eps = self.coupling(x, randn(x.shape, generator).to(x), cond)
        return self._loss(denoiser, x, cond, u, eps, 0.0 if self.alpha is None else self.alpha(step))

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """MeanFlow's loss (B,), alpha = 0, at the quantiles ``u`` (B,) of p(t) and the noise ``eps`` (B, ...); r and
        whether it is t follow from u."""
        return self._loss(denoiser, x, cond, quantiles(u, 3), eps, 0.0)

    def times(self, straight: Straight, u: list[Tensor]) -> tuple[Tensor, Tensor]:
        """t and r (B,) from three uniform numbers for each sample."""
        t, r = straight.times(u[0], self.time), straight.times(u[1], self.end_time)
        if self.order == "sorted":
            t, r = torch.maximum(t, r), torch.minimum(t, r)
        t = straight.within(t)  # an end may lie below the schedule's: nothing is evaluated there
        return t, torch.where(u[2] < self.share, torch.minimum(t, r), t)

    def _loss(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, u: list[Tensor], eps: Tensor, alpha: float
    ) -> Tensor:
        straight = Straight(denoiser)
        t, r = self.times(straight, u)
        z = straight_path(x, eps, t)
        at = Pair(z, t, r, self._velocity(straight, z, t, eps - x, cond), cond)
        with replayed(x.device):
            mean = straight.u(z, t, r, cond)
        own = None
        if self.improved:
            with replayed(x.device):
                own = straight.u(z, t, None, cond)
        weight: Tensor | float = 1.0
        if alpha > 0:
            target = self._discrete(straight, at, alpha)
            weight = torch.where(at.apart, alpha ** (2 * self.penalty.power - 1), 1.0)
        else:
            target = self._continuous(straight, at, at.v if own is None else own.detach())
        if self.alpha is not None:
            self.watched["alpha"] = alpha
        if self.clip is not None:
            target = target.clamp(-self.clip, self.clip)
        loss = weight * self.penalty(mean - target)
        return loss if own is None else loss + self.penalty(own - at.v)

    @torch.no_grad()
    def _velocity(self, straight: Straight, z: Tensor, t: Tensor, v: Tensor, cond: Condition) -> Tensor:
        """v, or what stands for it."""
        if self.teacher is not None:
            return velocity(self.teacher.on(STRAIGHT, z), z, t, cond)
        if not self.guided:
            return v
        kappa: Tensor | float = 1 - 1 / self.guidance_scale
        if self.guidance_scales is not None:
            kappa = expand_as(1 - 1 / scale_of(cond), z)
        left = [name for name, signal in cond.signals.items() if not signal.stays]
        with replayed(z.device):
            conditional = straight.u(z, t, None, cond)
        with replayed(z.device):
            other = straight.u(z, t, None, cond.without(*left))
        return v + kappa * (conditional - other)

    def _continuous(self, straight: Straight, at: Pair, tangent: Tensor) -> Tensor:
        """v - (t - r) du/dt.

        The direction is t (1 - t) times (tangent, 1): the noise level that the network sees, log-SNR, moves by 2 then,
        where at both ends of the path it would move by infinitely much.
        """
        scale = at.t * (1 - at.t)
        slope = along(
            lambda z, t: straight.u(z, t, at.r, at.cond),
            (at.z, at.t),
            (expand_as(scale, at.z) * tangent, scale),
            self.derivative,
        )
        change = expand_as((at.t - at.r) / scale, at.z) * slope
        change = torch.where(expand_as(at.apart, at.z), change, 0.0)
        self.watched["tangent_norm"] = root_mean_square(change, at.apart)
        return at.v - change

    @torch.no_grad()
    def _discrete(self, straight: Straight, at: Pair, alpha: float) -> Tensor:
        """alpha v + (1 - alpha) u(z - alpha (t - r) v, r, t - alpha (t - r)), and v where r = t."""
        if alpha == 1:
            return at.v
        step = alpha * (at.t - at.r)
        with replayed(at.z.device):
            onward = straight.u(at.z - expand_as(step, at.z) * at.v, at.t - step, at.r, at.cond)
        return torch.where(expand_as(at.apart, at.z), alpha * at.v + (1 - alpha) * onward, at.v)
