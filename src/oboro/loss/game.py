"""What losses share that train several networks against each other in one backward pass."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from oboro.base.ranges import Count
from oboro.codec import Codec
from oboro.condition import Condition
from oboro.data import DataModule
from oboro.denoiser import Denoiser
from oboro.loss.coupling import Coupling, Independent
from oboro.loss.student import Start, student_samples
from oboro.loss.terms import Terms
from oboro.sampler.ancestral import Ancestral
from oboro.teacher import Teacher

Weighted = Mapping[str, tuple[float, Tensor]]  # terms (B,) by name, each with its weight in the objective


class Game(nn.Module, ABC):
    """(denoiser, sampler, x (B, ...), cond, generator, due) ↦ the objective of all networks, by the samples that the
    denoiser draws with ``sampler`` in training (``student_samples``): a student, or the generator of a GAN.

    One backward pass serves all. What the denoiser learns from sees its opponents with constant weights, what these
    learn from sees its samples as constants. The denoiser is updated every ``every`` steps (``due``); in others its
    samples have no gradient and its terms are not computed.

    ``task``: the option of the task that trains all of them.
    """

    task: ClassVar[str]
    teaches_variance = False
    teaches_jumps = True
    needs_end = False
    coupling: ClassVar[Coupling] = Independent()
    teacher: Teacher | None = None

    def __init__(self, every: Count, start: Start):
        super().__init__()
        self.every = every
        self.start = start

    @property
    @abstractmethod
    def opponents(self) -> Mapping[str, Sequence[nn.Module]]:
        """The networks that are trained beside the denoiser, in every step, each with what is trained along with it."""

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
        always, of_learned = self.costs
        return (steps if self.start == "samples" else 1) + always + of_learned / self.every

    @property
    @abstractmethod
    def costs(self) -> tuple[int, int]:
        """How often teacher and opponents are evaluated for a sample: in each step, and in one that updates the
        denoiser."""

    def forward(
        self, denoiser: Denoiser, sampler: Ancestral, x: Tensor, cond: Condition, generator: torch.Generator, due: bool
    ) -> Terms:
        """``x`` are data; every draw is from ``generator``."""
        with torch.set_grad_enabled(due and torch.is_grad_enabled()):
            made = student_samples(denoiser, sampler, x, cond, generator, self.start)
        terms = dict(self.of_opponents(x, made.detach(), cond, generator))
        if due:
            terms |= self.of_learned(x, made, cond, generator)
        objective = torch.stack([weight * term for weight, term in terms.values()]).sum(0)
        return Terms(objective, {name: term.detach().mean() for name, (_, term) in terms.items()})

    @abstractmethod
    def of_learned(self, x: Tensor, made: Tensor, cond: Condition, generator: torch.Generator) -> Weighted:
        """What the denoiser lowers by its samples ``made`` (B, ...)."""

    @abstractmethod
    def of_opponents(self, x: Tensor, made: Tensor, cond: Condition, generator: torch.Generator) -> Weighted:
        """What the networks beside it lower, by data ``x`` and samples ``made``, both constants."""

    @abstractmethod
    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """A number (B,) at held-out data ``x``: a fixed functional, the loss of validation."""
