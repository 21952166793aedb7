"""The denoising loss E_{t ~ p(t), eps} w(t) |D(x_t, t, cond) - x|², per sample."""

from typing import Literal

import torch
from torch import Tensor, nn

from oboro.base.draws import rand, randn, randperm
from oboro.base.ranges import NonNegative
from oboro.condition import Condition, Image
from oboro.denoiser import Denoiser
from oboro.loss.coupling import Coupling
from oboro.loss.noise import Gaussian, Noise
from oboro.loss.path import noised
from oboro.loss.penalty import Penalty
from oboro.loss.time import Fixed, Level, TimeDistribution
from oboro.loss.weighting import Weight
from oboro.schedule import expand_as
from oboro.teacher import Teacher

GAUSSIAN = Gaussian()


class Denoising(nn.Module):
    """w(t) penalty(D(x_t, t, cond) - x) with t ~ p(t), (x, eps) ~ coupling, one number per sample.

    ``stratified`` takes the quantiles from B equal strata, one each in random order: u_i = (pi(i) + U_i) / B. Every u_i
    stays uniform and the mean over the batch varies less (in the manner of arXiv:2107.00630, app. I.1). B is the batch
    of an optimizer step, on all ranks together.

    ``offset_noise`` adds that many times one more normal number per sample and channel, the same for all its pixels, to
    eps: a denoiser that knows no offset in the noise leaves the mean of an image where the first steps have put it.

    ``input_perturbation`` is gamma of Ning et al. 2023 (arXiv:2301.11706, algorithm 1): x_t is made of eps + gamma xi,
    the target of the network still of (x, eps). For D that is the target x + c_skip sigma gamma xi.

    ``noise`` other than Gaussian is for looking for anomalies: D is then no score, and what begins in normal numbers no
    sample.

    ``region`` = hole takes D - x for 0 where the condition has the known pixels of a picture with a hole, which
    sampling puts back (Palette, arXiv:2111.05826, sec. 3). A sample without its picture counts as a whole.

    Parameters and buffers are those of ``weighting`` and ``time``, and are trained and kept with the denoiser's.
    """

    teaches_variance = False  # of the reverse steps
    teaches_jumps = False  # to the end of the flow, in place of the mean
    needs_end = False  # of a jump
    teacher: Teacher | None = None
    evaluations = 1

    def __init__(
        self,
        time: TimeDistribution,
        weighting: Weight,
        penalty: Penalty,
        coupling: Coupling,
        stratified: bool = False,
        offset_noise: NonNegative = 0.0,
        input_perturbation: NonNegative = 0.0,
        region: Literal["all", "hole"] = "all",
        noise: Noise = GAUSSIAN,
    ):
        super().__init__()
        self.time = time
        self.weighting = weighting
        self.penalty = penalty
        self.coupling = coupling
        self.stratified = stratified
        self.offset_noise = offset_noise
        self.input_perturbation = input_perturbation
        self.region = region
        self.noise = noise

    @property
    def teaches_time(self) -> float | None:
        """The one noise level that it teaches; None where there are more."""
        return self.time.t if isinstance(self.time, Fixed) else None

    def forward(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator, step: int = 0
    ) -> Tensor:
        """Objective (B,) of ``x`` (B, ...), for training; every draw is from ``generator``, on its own device.

        In training mode ``time`` takes note of the losses.
        """
        u = rand(x.shape[:1], generator)
        eps = self.noise(x.shape, generator).to(x)
        if self.stratified:
            strata, count = randperm(len(x), generator)
            u = (strata + u) / count
        if self.offset_noise:
            offset = randn((*x.shape[:2], *(1,) * (x.ndim - 2)), generator)
            eps = eps + self.offset_noise * offset.to(x)
        u = self.time.draw(u.to(x))
        level = self.level(denoiser, u)
        eps = self.coupling(x, eps, cond)
        target, noise = x, eps
        if self.input_perturbation:
            xi = self.input_perturbation * randn(x.shape, generator).to(x)
            noise = eps + xi
            target = x + expand_as(level.coefficients.c_skip * level.sigma, x) * xi
        weighted = self._weighted(denoiser, x, cond, level, noise, target)
        objective, denoising = self.weighting.objective(level, weighted)
        corrected = self.time.correct(u, objective)
        self.time.record(u, denoising.detach())
        return corrected

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """Weighted loss (B,) at the quantiles ``u`` (B,) of p(t) and the noise ``eps`` (B, ...), for validation.

        A fixed functional of the denoiser: nothing is drawn, coupled or perturbed, ``LossAware`` uses its base
        distribution and ``LearnedLogVariance`` its base weight, so that values stay comparable over training.
        """
        return self._weighted(denoiser, x, cond, self.level(denoiser, u), eps, x)

    def level(self, denoiser: Denoiser, u: Tensor) -> Level:
        """The noise levels at the quantiles ``u`` (B,)."""
        return Level(u, self.time, denoiser.schedule, denoiser.parameterization)

    def _weighted(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, level: Level, eps: Tensor, target: Tensor
    ) -> Tensor:
        """w penalty(D(alpha x + sigma eps) - target)."""
        x_t = noised(x, eps, level)
        r = denoiser(x_t, level.t, cond) - target
        return self.weighting(level) * self.penalty(in_hole(r, cond) if self.region == "hole" else r)


def in_hole(r: Tensor, cond: Condition) -> Tensor:
    """``r`` (B, ...), 0 where a picture of ``cond`` that has a hole is known."""
    for signal in cond.signals.values():
        if isinstance(signal, Image) and signal.has_hole:
            r = torch.where(signal.known, 0.0, r)
    return r
