"""Guidance by the gradient of a classifier of noisy images."""

from collections.abc import Mapping, Sequence
from math import exp
from typing import Protocol

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.ranges import CountOrNone
from oboro.condition import Condition, Label, Signal
from oboro.denoiser import Denoises
from oboro.guidance.gradient import linearized
from oboro.guidance.guidance import Guidance, Guided, beside
from oboro.guidance.weight import CONSTANT, Weight
from oboro.restore import Trained
from oboro.restore.trained import restored
from oboro.sampler import Node
from oboro.schedule import Schedule, expand_as

# alpha / sigma below which an image says nothing of its class: log-SNR -20, where c_noise ends, too.
SILENCE = exp(-10)


class Classifies(Protocol):
    """Anything that maps (x_t (B, ...), t (B,)) to logits (B, num_classes) of p(y | x_t), on any schedule."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor: ...

    @property
    def network(self) -> nn.Module: ...

    def reschedule(self, schedule: Schedule) -> "Classifies": ...


class Classifier(Guidance):
    """D' = D + scale w(t) sigma_t² / alpha_t grad_{x_t} log p(y | x_t).

    The score of p(x_t) p(y | x_t)^scale, seen through D = (x_t + sigma² score) / alpha: with the unconditional D and
    scale = 1 it is the conditional denoiser; a conditional D is drawn further to its class. Song et al. 2021
    (arXiv:2011.13456, eq. 14); Dhariwal & Nichol 2021 (arXiv:2105.05233, sec. 4.2 and algorithm 2).

    The class is ``label``, or else that of each sample, the signal ``label`` of the condition, which the denoiser need
    not read (``Condition.sampling``). The classifier is evaluated on the schedule of the denoiser, whatever its own
    was, and only where the factor is not 0 for the whole batch. Where alpha < e^-10 sigma, so at pure noise, D' = D.
    """

    def __init__(
        self,
        classifier: Classifies | Trained,
        scale: float = 1.0,
        weight: Weight = CONSTANT,
        label: CountOrNone | None = None,
    ):
        self.classifier = classifier
        self.scale = scale
        self.weight = weight
        self.label = label

    @property
    def networks(self) -> Sequence[nn.Module]:
        return [restored(self.classifier).network]

    @property
    def reads(self) -> Mapping[str, type[Signal]]:
        return {"label": Label} if self.label is None else {}

    @property
    def follows_score(self) -> bool:
        return True

    @property
    def idle(self) -> Sequence[str]:
        return ("classifier",) if self.scale == 0 else ()

    @property
    def target(self) -> int | None:
        return self.label if self.scale != 0 else None

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        classifier = restored(self.classifier).reschedule(denoiser.schedule)
        return ClassifierDenoiser(denoiser, classifier, self.scale, self.weight, self.label)


class ClassifierDenoiser(Guided):
    """The denoiser that ``Classifier`` makes."""

    def __init__(self, denoiser: Denoises, classifier: Classifies, scale: float, weight: Weight, label: int | None):
        super().__init__(denoiser)
        self.classifier = classifier
        self.scale = scale
        self.weight = weight
        self.label = label

    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        alpha, sigma = self.schedule(t)
        factor = self.scale * self.weight(t, self.schedule) * sigma**2 / alpha
        factor = torch.where(alpha >= SILENCE * sigma, factor, 0)
        if not factor.any():
            return conditional
        return conditional + expand_as(factor, x_t) * self._gradient(x_t, t, self._classes(cond, x_t))

    def _classes(self, cond: Condition, x_t: Tensor) -> Tensor:
        if self.label is not None:
            return torch.full((len(x_t),), self.label, device=x_t.device)
        label = {**cond.sampling, **cond.signals}.get("label")
        if label is None:
            raise UserError(
                "classifier guidance needs a class and this model is drawn without labels; "
                "set guidance.label to the class that it is to draw."
            )
        return label.index  # type: ignore[attr-defined]  # the network's ``reads`` has it a Label

    def _gradient(self, x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """grad_{x_t} log p(label | x_t), of the shape of ``x_t``."""

        def log_p_of_label(x_t: Tensor) -> Tensor:
            log_p = beside(self.classifier, x_t)(x_t, t).log_softmax(1)
            classes = log_p.shape[1]
            if len(unknown := label[(label < 0) | (label >= classes)]):
                raise UserError(
                    f"the classifier has classes 0 to {classes - 1} and is asked for class {int(unknown[0])}; change "
                    "guidance.label, or take a classifier of the same data with guidance.classifier.path."
                )
            return log_p.gather(1, label[:, None])[:, 0]

        log_p, pullback = linearized(log_p_of_label, x_t)
        return pullback(torch.ones_like(log_p))
