"""Continuous-time consistency models: sCM, from data (sCT) or from a teacher (sCD)."""

from math import pi

import torch
from torch import Tensor, nn

from oboro.base.draws import rand, randn, replayed
from oboro.base.errors import UserError
from oboro.base.ranges import CountOrNone, Positive
from oboro.condition import Condition
from oboro.denoiser import Denoiser, Denoises, combined
from oboro.loss.coupling import Coupling
from oboro.loss.derivative import Derivative, along, root_mean_square
from oboro.loss.time import Level, TimeDistribution
from oboro.loss.weighting import Weight
from oboro.schedule import Schedule, expand_as
from oboro.teacher import Teacher


class Trigonometric(Schedule):
    """alpha = cos(theta), sigma = sigma_data sin(theta) with theta = pi t / 2: TrigFlow (arXiv:2410.11081, sec. 3).

    x_theta of data of standard deviation ``sigma_data`` has that standard deviation at all times.
    """

    def __init__(self, sigma_data: Positive = 0.5):
        self.sigma_data = sigma_data

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t * (pi / 2))

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_data * torch.sin(t * (pi / 2))

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2) / self.sigma_data) * (2 / pi)


class ContinuousConsistency(nn.Module):
    """w(t) |F - sg(F + g / (|g| + c))|², whose gradient is that of a consistency loss at two times infinitely near.

    Lu & Song 2024 (arXiv:2410.11081, algorithm 1, eq. 6 and 8). On any schedule and with any parameterization, by the
    angle theta = arctan(sigma / (alpha sigma_data)): y = sigma_data x_t / sqrt(alpha² sigma_data² + sigma²) is
    cos(theta) x + sin(theta) sigma_data eps, F = (cos(theta) y - D) / (sigma_data sin(theta)), and

        g = cos(theta) dD/dtheta = -cos² (sigma_data F - dy/dtheta) - rho cos sin (y + sigma_data dF/dtheta)

    with dy/dtheta = cos(theta) sigma_data eps - sin(theta) x, or sigma_data F of a ``teacher``; sin, cos are those of
    theta. rho goes linearly from 0 to 1 in the first ``warmup_steps`` steps; c is ``normalisation``, and |g| the root
    mean square over a sample, so that c means the same for any number of pixels; None leaves g as it is.

    ``weighting`` is w on the error of D, here as everywhere; ``LearnedLogVariance`` of ``TrigFlow`` is the paper's.
    In validation rho is 1 and g is not normalised: how far from a consistency model the denoiser is. Parameters and
    buffers are those of ``weighting``. Raises ``UserError`` for a p(t) that follows the losses.
    """

    teaches_variance = False
    teaches_jumps = True
    needs_end = False

    def __init__(
        self,
        time: TimeDistribution,
        weighting: Weight,
        coupling: Coupling,
        sigma_data: Positive = 0.5,
        warmup_steps: CountOrNone = 10_000,
        normalisation: Positive | None = 0.1,
        derivative: Derivative = "exact",
        teacher: Teacher | None = None,
    ):
        super().__init__()
        if time.adapts:
            raise UserError(
                "the loss of ContinuousConsistency is the same at all times once g is normalised, so no p(t) follows "
                "it; set loss/time=log_normal."
            )
        self.time = time
        self.weighting = weighting
        self.coupling = coupling
        self.sigma_data = sigma_data
        self.warmup_steps = warmup_steps
        self.normalisation = normalisation
        self.derivative = derivative
        self.teacher = teacher
        self.watched: dict[str, Tensor | float] = {}

    @property
    def evaluations(self) -> int:
        """An exact derivative counts twice, as its arithmetic does."""
        return 3 + (0 if self.teacher is None else self.teacher.evaluations)

    def forward(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator, step: int = 0
    ) -> Tensor:
        """Objective (B,) of ``x`` (B, ...), for training; every draw is from ``generator``, on its own device."""
        u = rand(x.shape[:1], generator).to(x)
        eps = self.coupling(x, randn(x.shape, generator).to(x), cond)
        level, answer, g = self._tangent(denoiser, x, cond, u, eps, self.warmup(step))
        self.watched = {"tangent_norm": root_mean_square(g), "warmup": self.warmup(step)}
        if self.normalisation is not None:
            size = expand_as(g.square().flatten(1).mean(1).sqrt(), g)
            g = g / (size + self.normalisation)
        return self.weighting.objective(level, self._weighted(level, answer - (answer.detach() + g)))[0]

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """w(t) |g|² (B,) at the quantiles ``u`` (B,) of p(t) and the noise ``eps`` (B, ...), for validation."""
        level, _, g = self._tangent(denoiser, x, cond, u, eps, 1.0)
        return self._weighted(level, g)

    def warmup(self, step: int) -> float:
        """rho."""
        return min(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0

    def _weighted(self, level: Level, r: Tensor) -> Tensor:
        """w times the mean square of the error of D that ``r`` is in F: D = cos(theta) y - sigma_data sin(theta) F."""
        sigma, data = level.sigma, level.alpha * self.sigma_data
        out = self.sigma_data**2 * sigma**2 / (sigma**2 + data**2)
        return self.weighting(level) * out * r.square().flatten(1).mean(1)

    def _tangent(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor, rho: float
    ) -> tuple[Level, Tensor, Tensor]:
        """The noise levels, F with its gradient, and g without."""
        level = Level(u, self.time, denoiser.schedule, denoiser.parameterization)
        schedule = Trigonometric(self.sigma_data)
        t = torch.atan2(level.sigma, level.alpha * self.sigma_data) * (2 / pi)
        jump: Denoises = denoiser.reschedule(schedule).towards(1.0, 0.0)
        alpha, sigma = (expand_as(c, x) for c in schedule(t))
        y = alpha * x + sigma * eps
        with replayed(x.device):
            answer = self._f(jump, y, t, cond)
        with torch.no_grad():
            cos, sin = alpha, sigma / self.sigma_data
            speed = cos * self.sigma_data * eps - sin * x
            if self.teacher is not None:
                speed = self.sigma_data * self._f(self.teacher.on(schedule, y), y, t, cond)
            # The direction is cos sin (dy, dtheta): log-SNR moves by 2, and without it infinitely much at both ends.
            slope = along(
                lambda y, t: self._f(jump, y, t, cond),
                (y, t),
                (cos * sin * speed, (cos * sin).flatten() * (2 / pi)),
                self.derivative,
            )
            g = -(cos**2) * (self.sigma_data * answer - speed) - rho * (cos * sin * y + self.sigma_data * slope)
        return level, answer, g

    def _f(self, denoiser: Denoises, y: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """F = -sin(theta) / sigma_data x̂0 + cos(theta) eps̃."""
        alpha, sigma = denoiser.schedule(t)
        return combined(denoiser, y, t, cond, -sigma / self.sigma_data**2, alpha)
