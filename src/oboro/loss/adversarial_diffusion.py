"""Distillation by an adversary that looks at frozen features, and by what the teacher makes of noised samples."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.constant import constant
from oboro.base.errors import UserError
from oboro.base.ranges import Count, NonNegative
from oboro.codec import Codec, Identity
from oboro.condition import Condition
from oboro.data import DataModule
from oboro.denoiser import Denoiser
from oboro.loss.discriminator import Head
from oboro.loss.distilling import Distilling
from oboro.loss.features import Features
from oboro.loss.game import Weighted
from oboro.loss.path import noised
from oboro.loss.student import Start
from oboro.loss.time import Level, TimeDistribution
from oboro.modality import Image
from oboro.teacher import Teacher


class Heads(nn.Module):
    """A ``Head`` for each feature, [(B, C_k, ...)] ↦ logits (B, K)."""

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        self.heads = nn.ModuleList(Head(c) for c in channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        return torch.stack([head(f) for head, f in zip(self.heads, features, strict=True)], 1)


class ADD(Distilling):
    """Adversarial diffusion distillation, Sauer et al. 2023 (arXiv:2311.17042, eq. 1-4): the student lowers

        -sum_k D_k(F_k(x_g)) + distillation alpha_t mean|x_g - D_real(alpha_t x_g + sigma_t eps)|²,

    the teacher's answer held constant, and the heads D_k on frozen ``features`` F_k the hinge loss

        sum_k max(0, 1 - D_k(F_k(x))) + max(0, 1 + D_k(F_k(x_g))) + r1 |grad D_k(F_k(x))|²,

    the gradient with respect to F_k(x). Other than in the paper the heads do not see the condition, and the distance
    is a mean over pixels. By default x_g is made of noised data, as there; at a single step both are noise alone.

    Validation tells the distillation term of samples that are made in one step of the noise eps, each noised with eps
    of another place.
    """

    def __init__(
        self,
        teacher: Teacher,
        features: Features,
        time: TimeDistribution,
        every: Count = 1,
        start: Start = "data",
        distillation: NonNegative = 2.5,
        r1: NonNegative = 1e-5,
    ):
        super().__init__(teacher, time, every, start)
        self.features = features
        self.heads = Heads(features.channels)
        self.distillation = distillation
        self.r1 = r1

    @property
    def opponents(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"discriminator": (self.heads,)}

    @property
    def frozen(self) -> Mapping[str, nn.Module]:
        return {"features": self.features}

    def check(self, data: DataModule, codec: Codec) -> None:
        super().check(data, codec)
        if not isinstance(data.modality, Image) or not isinstance(codec, Identity):
            raise UserError("loss=add looks at features of images and this run has none; choose loss=dmd2 or loss=sid.")
        self.features.check(data.modality.shape[0])

    @property
    def costs(self) -> tuple[int, int]:
        return 0, self.teacher.evaluations

    def of_opponents(self, x: Tensor, made: Tensor, cond: Condition, generator: torch.Generator) -> Weighted:
        with torch.no_grad():
            real, false = self.features(x), self.features(made)
        real = [f.requires_grad_() for f in real]
        logits = self.heads(real)
        terms = {"discriminator": (1.0, (F.relu(1 - logits) + F.relu(1 + self.heads(false))).sum(1))}
        if self.r1 > 0:
            slopes = torch.autograd.grad(logits.sum(), real, create_graph=True)
            terms["r1"] = self.r1, torch.stack([slope.square().flatten(1).sum(1) for slope in slopes]).sum(0)
        return terms

    def of_learned(self, x: Tensor, made: Tensor, cond: Condition, generator: torch.Generator) -> Weighted:
        x_t, level = self.drawn_level(self.teacher.denoiser, made.detach(), generator)
        return {
            "generator": (1.0, -constant(self.heads)(self.features(made)).sum(1)),
            "distillation": (self.distillation, self.distance(made, x_t, level, cond)),
        }

    def distance(self, made: Tensor, x_t: Tensor, level: Level, cond: Condition) -> Tensor:
        """alpha_t mean|x_g - D_real(x_t)|², (B,); ``x_t`` is made of x_g."""
        with torch.no_grad():
            real = self.teacher.on(self.teacher.denoiser.schedule, x_t)(x_t, level.t, cond)
        return level.alpha * (made - real).square().flatten(1).mean(1)

    def at_quantile(self, student: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        teacher = self.teacher.denoiser
        made = student.towards(1.0, 0.0)(student.schedule.prior(eps), u.new_ones(len(u)), cond)
        level = Level(u, self.time, teacher.schedule, teacher.parameterization)
        return self.distance(made, noised(made, eps.flatten(1).flip(1).view_as(eps), level), level, cond)
