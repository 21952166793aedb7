"""Distillation by the scores of two distributions: the teacher's, and that of the student's samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.constant import constant
from oboro.base.errors import UserError
from oboro.base.ranges import Count, NonNegative
from oboro.codec import Codec
from oboro.condition import Condition, kinds_read
from oboro.data import DataModule
from oboro.denoiser import Denoiser
from oboro.loss.denoising import Denoising
from oboro.loss.discriminator import Head, NoisyDiscriminator
from oboro.loss.distilling import Distilling, evaluating
from oboro.loss.game import Weighted
from oboro.loss.path import noised
from oboro.loss.student import Start
from oboro.loss.time import Level, TimeDistribution
from oboro.schedule import expand_as
from oboro.teacher import Teacher

LEAST = 1e-5  # of the error that gradients are divided by
Weight = Literal["normalized", "snr"]


class DistributionMatching(Distilling, ABC):
    """A student whose samples x_g shall have the teacher's distribution, at every noise level x_t = alpha x_g + sigma
    eps with t of ``time``.

    ``fake`` is the denoiser of the student's own samples, D_fake; it begins as the teacher, D_real, and is trained by
    ``denoising`` in every step. With ``adversarial`` > 0 a head on the bottleneck of ``fake`` is trained with the
    weight ``discriminator_weight`` to tell noised data from noised samples,

        softplus(-logit(x_t)) + softplus(logit(x_g,t)),

    together with the layers of ``fake`` before it, and the student lowers ``adversarial`` softplus(-logit(x_g,t)): Yin
    et al. 2024 (DMD2, arXiv:2405.14867, sec. 4.3). Other than there its noise levels are of ``time``, too, and dropout
    is off where ``fake`` is asked for anything but ``denoising``.

    Validation tells mean(|F_fake - F_real|²) at noised data, F = (D - c_skip x_t) / c_out: 0 where scores are equal.
    """

    def __init__(
        self,
        teacher: Teacher,
        fake: Denoiser,
        time: TimeDistribution,
        denoising: Denoising,
        every: Count,
        start: Start,
        adversarial: NonNegative,
        discriminator_weight: NonNegative,
    ):
        super().__init__(teacher, time, every, start)
        self.fake = fake
        self.denoising = denoising
        self.adversarial = adversarial
        self.discriminator_weight = discriminator_weight
        self.head: Head | None = None
        if adversarial > 0:
            network: Any = fake.network
            if not hasattr(network, "bottleneck_channels"):
                raise UserError(
                    f"{type(network).__name__} has no bottleneck for a discriminator to look at; set "
                    "loss.adversarial=0."
                )
            self.head = Head(network.bottleneck_channels, dims=getattr(network, "dims", 2))

    @property
    def opponents(self) -> Mapping[str, Sequence[nn.Module]]:
        head = {} if self.head is None else {"discriminator": (self.head,)}
        return {"fake": (self.fake, self.denoising), **head}

    def check(self, data: DataModule, codec: Codec) -> None:
        super().check(data, codec)
        if type(self.teacher.denoiser.parameterization) is not type(self.fake.parameterization):
            raise UserError(
                "the fake score and the teacher hold their networks' outputs for different things; leave loss.fake "
                "out, it comes with loss.teacher.path."
            )

    @property
    def costs(self) -> tuple[int, int]:
        judged = self.head is not None
        return 1 + 2 * judged, self.teacher.evaluations + 1 + judged

    def of_opponents(self, x: Tensor, made: Tensor, cond: Condition, generator: torch.Generator) -> Weighted:
        cond = self._seen(cond)
        terms = {"fake": (1.0, self.denoising(self.fake, made, cond, generator))}
        if self.head is not None:
            judge = NoisyDiscriminator(self.fake, self.head)
            with evaluating(self.fake):
                real, false = (self._judged(judge, image, cond, generator) for image in (x, made))
            terms["discriminator"] = self.discriminator_weight, F.softplus(-real) + F.softplus(false)
        return terms

    def of_learned(self, x: Tensor, made: Tensor, cond: Condition, generator: torch.Generator) -> Weighted:
        x_t, level = self.drawn_level(self.fake, made, generator)
        with evaluating(self.fake):
            terms = {"distribution_matching": (1.0, self.matching(made, x_t, level, cond))}
            if self.head is not None:
                judge = constant(NoisyDiscriminator(self.fake, self.head))
                terms["generator"] = (
                    self.adversarial,
                    F.softplus(-self._judged(judge, made, self._seen(cond), generator)),
                )
        return terms

    @abstractmethod
    def matching(self, made: Tensor, x_t: Tensor, level: Level, cond: Condition) -> Tensor:
        """The term (B,) that draws the samples ``made`` towards the teacher's distribution; ``x_t`` is made of them."""

    def at_quantile(self, student: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        level = Level(u, self.time, self.fake.schedule, self.fake.parameterization)
        real, fake = self.denoised(noised(x, eps, level), level, cond)
        return (fake - real).square().flatten(1).mean(1) * level.coefficients.c_out**-2

    def denoised(self, x_t: Tensor, level: Level, cond: Condition) -> tuple[Tensor, Tensor]:
        """D_real and D_fake at ``x_t`` (B, ...), the weights of both constants."""
        real = self.teacher.on(self.fake.schedule, x_t)(x_t, level.t, cond)
        return real, constant(self.fake)(x_t, level.t, self._seen(cond))

    def _seen(self, cond: Condition) -> Condition:
        """The signals that ``fake`` reads: a student may read more."""
        return cond.only(*kinds_read(self.fake.network))

    def _judged(
        self, judge: Callable[..., Tensor], image: Tensor, cond: Condition, generator: torch.Generator
    ) -> Tensor:
        """The logits (B,) that ``judge`` gives noised images."""
        x_t, level = self.drawn_level(self.fake, image, generator)
        return judge(x_t, level.t, cond)


class DMD2(DistributionMatching):
    """The gradient of a sample x_g is D_fake(x_t) - D_real(x_t), times w: that of half the squared distance to
    x_g - w (D_fake - D_real), which is held constant.

    ``weight`` = normalized: w = 1 / mean|x_g - D_real(x_t)|, a number for each sample. Yin et al. 2024 (DMD,
    arXiv:2311.18828, eq. 7-8; DMD2, arXiv:2405.14867, sec. 3). Other than in eq. 8, and as in the authors' code, there
    is no factor alpha_t. ``weight`` = snr: w = alpha² / sigma², and for an exact D_fake the expected gradient is that
    of KL(student's noised samples || teacher's), averaged over t, over the count of numbers in a sample.
    """

    def __init__(
        self,
        teacher: Teacher,
        fake: Denoiser,
        time: TimeDistribution,
        denoising: Denoising,
        weight: Weight = "normalized",
        every: Count = 5,
        start: Start = "samples",
        adversarial: NonNegative = 3e-3,
        discriminator_weight: NonNegative = 1e-2,
    ):
        super().__init__(teacher, fake, time, denoising, every, start, adversarial, discriminator_weight)
        self.weight = weight

    def matching(self, made: Tensor, x_t: Tensor, level: Level, cond: Condition) -> Tensor:
        with torch.no_grad():
            real, fake = self.denoised(x_t, level, cond)
            w = error_of(made, real).reciprocal() if self.weight == "normalized" else torch.exp(level.log_snr)
            target = made - expand_as(w, made) * (fake - real)
        return (made - target).square().flatten(1).mean(1) / 2


class SiD(DistributionMatching):
    """mean((D_real - D_fake) (D_real - x_g - alpha (D_real - D_fake))) / mean|x_g - D_real|, with gradients through
    both denoisers to x_t, and none through the divisor.

    Zhou et al. 2024 (arXiv:2404.04057, sec. 4 and algorithm 1). Without the divisor its expectation for an exact D_fake
    is (1 - alpha) times the mean squared difference of the denoisers. Other than in the algorithm ``fake`` and student
    are updated at once, from the same samples.
    """

    def __init__(
        self,
        teacher: Teacher,
        fake: Denoiser,
        time: TimeDistribution,
        denoising: Denoising,
        alpha: NonNegative = 1.2,
        every: Count = 1,
        start: Start = "samples",
        adversarial: NonNegative = 0.0,
        discriminator_weight: NonNegative = 1e-2,
    ):
        super().__init__(teacher, fake, time, denoising, every, start, adversarial, discriminator_weight)
        self.alpha = alpha

    def matching(self, made: Tensor, x_t: Tensor, level: Level, cond: Condition) -> Tensor:
        real, fake = self.denoised(x_t, level, cond)
        gap = real - fake
        product = (gap * (real - made - self.alpha * gap)).flatten(1).mean(1)
        return product / error_of(made, real).detach()


def error_of(made: Tensor, real: Tensor) -> Tensor:
    """mean|x_g - D_real| of each sample, (B,), at least 1e-5."""
    return (made - real).abs().flatten(1).mean(1).clamp(min=LEAST)
