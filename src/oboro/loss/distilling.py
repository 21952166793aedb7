"""What the losses of ``task=distillation`` share: a student, a teacher, and networks that are trained beside it."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from oboro.base.draws import rand, randn
from oboro.base.errors import UserError
from oboro.base.ranges import Count
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss.game import Game
from oboro.loss.path import noised
from oboro.loss.student import Start
from oboro.loss.time import Level, TimeDistribution
from oboro.teacher import Teacher


class Distilling(Game):
    """A ``Game`` whose denoiser is a student. Noise levels of ``teacher`` and opponents are of ``time``.

    Raises ``UserError`` for a p(t) that follows losses.
    """

    task = "distillation"
    teacher: Teacher

    def __init__(self, teacher: Teacher, time: TimeDistribution, every: Count, start: Start):
        super().__init__(every, start)
        if time.adapts:
            raise UserError(
                f"{type(time).__name__} follows the losses of one network and here are several; choose a fixed p(t), "
                "such as loss/time=uniform."
            )
        self.teacher = teacher
        self.time = time

    @abstractmethod
    def at_quantile(self, student: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """A distance (B,) of student and teacher at held-out data ``x``."""

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
