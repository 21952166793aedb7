"""What the losses of ``task=distillation`` share: a student, a teacher, and networks that are trained beside it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from oboro.base.draws import rand, randn
from oboro.base.errors import UserError
from oboro.base.ranges import Count
from oboro.codec import Codec
from oboro.condition import Condition
from oboro.data import DataModule
from oboro.denoiser import Denoiser
from oboro.loss.coupling import Coupling, Independent
from oboro.loss.path import noised
from oboro.loss.student import Start, student_samples
from oboro.loss.terms import Terms
from oboro.loss.time import Level, TimeDistribution
from oboro.sampler.ancestral import Ancestral
from oboro.teacher import Teacher

Weighted = Mapping[str, tuple[float, Tensor]]  # terms (B,) by name, each with its weight in the objective


class Distilling(nn.Module, ABC):
    """(student, sampler, x (B, ...), cond, generator, due) ↦ the objective of all networks, by the samples that the
    student draws with ``sampler`` in training (``student_samples``).

    One backward pass serves all. What the student learns from sees its opponents with constant weights, what these
    learn from sees its samples as constants. The student is updated every ``every`` steps (``due``); in others its
    samples have no gradient and its terms are not computed. Noise levels of ``teacher`` and opponents are of ``time``.

    Raises ``UserError`` for a p(t) that follows losses.
    """

    teaches_variance = False
    teaches_jumps = True
    needs_end = False
    coupling: ClassVar[Coupling] = Independent()

    def __init__(self, teacher: Teacher, time: TimeDistribution, every: Count, start: Start):
        super().__init__()
        if time.adapts:
            raise UserError(
                f"{type(time).__name__} follows the losses of one network and here are several; choose a fixed p(t), "
                "such as loss/time=uniform."
            )
        self.teacher = teacher
        self.time = time
        self.every = every
        self.start = start

    @property
    @abstractmethod
    def opponents(self) -> Mapping[str, Sequence[nn.Module]]:
        """The networks that are trained beside the student, in every step, each with what is trained along with it."""

    @property
    def frozen(self) -> Mapping[str, nn.Module]:
        """Parts that came trained and that checkpoints hold, by the attributes that they are."""
        return {}

    def check(self, data: DataModule, codec: Codec) -> None:
        """Raises ``UserError`` for data that it cannot learn from, or latents."""
        return None

    def evaluations(self, steps: int) -> float:
        """How often networks are evaluated for a sample and a step of training, in the mean, where the sampler has
        ``steps``; the passes back apart. Half a network counts as one."""
        always, of_student = self.costs
        return (steps if self.start == "samples" else 1) + always + of_student / self.every

    @property
    @abstractmethod
    def costs(self) -> tuple[int, int]:
        """How often teacher and opponents are evaluated for a sample: in each step, and in one that updates the
        student."""

    def forward(
        self, student: Denoiser, sampler: Ancestral, x: Tensor, cond: Condition, generator: torch.Generator, due: bool
    ) -> Terms:
        """``x`` are data; every draw is from ``generator``."""
        with torch.set_grad_enabled(due and torch.is_grad_enabled()):
            made = student_samples(student, sampler, x, cond, generator, self.start)
        terms = dict(self.of_opponents(x, made.detach(), cond, generator))
        if due:
            terms |= self.of_student(x, made, cond, generator)
        objective = torch.stack([weight * term for weight, term in terms.values()]).sum(0)
        return Terms(objective, {name: term.detach().mean() for name, (_, term) in terms.items()})

    @abstractmethod
    def of_student(self, x: Tensor, made: Tensor, cond: Condition, generator: torch.Generator) -> Weighted:
        """What the student lowers by its samples ``made`` (B, ...)."""

    @abstractmethod
    def of_opponents(self, x: Tensor, made: Tensor, cond: Condition, generator: torch.Generator) -> Weighted:
        """What the networks beside it lower, by data ``x`` and samples ``made``, both constants."""

    @abstractmethod
    def at_quantile(self, student: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """A distance (B,) of student and teacher at held-out data ``x``: a fixed functional, the loss of validation."""

    def drawn_level(self, of: Denoiser, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Level]:
        """``x`` with noise of a level of p(t), on the schedule of ``of``."""
        level = Level(rand(x.shape[:1], generator).to(x), self.time, of.schedule, of.parameterization)
        return noised(x, randn(x.shape, generator).to(x), level), level


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """In evaluation mode: without dropout, and weights are not written to."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, mode in modes:
            part.training = mode
