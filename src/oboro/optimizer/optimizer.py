"""What optimizers share: a learning rate that is warmed up, and then shaped by a decay."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import nn

from oboro.base.ranges import BelowOne, CountOrNone, NonNegative
from oboro.optimizer.decay import Decay

Betas = Annotated[Sequence[BelowOne], Len(2, 2)]


class Optimizer(ABC):
    """Learning rate ``lr``, reached linearly over ``warmup_steps`` updates, then shaped by ``decay``."""

    def __init__(self, lr: NonNegative, warmup_steps: CountOrNone, decay: Decay):
        self.lr = lr
        self.warmup_steps = warmup_steps
        self.decay = decay

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimizer at the full learning rate."""

    def factor(self, step: int, max_steps: int) -> float:
        """min(1, (step + 1) / warmup_steps) * decay(step / max_steps); without an end (max_steps < 1), done stays 0."""
        done = min(step / max_steps, 1.0) if max_steps > 0 else 0.0
        return min(1.0, (step + 1) / max(self.warmup_steps, 1)) * self.decay(done)

    def factor_of(self, max_steps: int) -> Callable[[int], float]:
        """``factor`` as a function of the step alone."""
        return lambda step: self.factor(step, max_steps)

    def __call__(
        self, parameters: Iterable[nn.Parameter], max_steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = self.build(parameters)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor_of(max_steps))
