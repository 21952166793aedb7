"""What a task of noise levels needs of its loss."""

from typing import Protocol

import torch
from torch import Tensor

from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss.coupling import Coupling
from oboro.teacher import Teacher


class Loss(Protocol):
    """(denoiser, x (B, ...), cond, generator) ↦ the loss of each sample (B,).

    ``teaches_variance``: the network has twice the channels of a sample. ``teaches_jumps``: to the end of the flow.
    ``teacher``: the trained model that it learns from, if there is one. ``evaluations``: how many times networks are
    evaluated for a sample of training, the passes back apart; None where that is not known.
    """

    teaches_variance: bool
    teaches_jumps: bool
    teacher: Teacher | None

    @property
    def evaluations(self) -> int | None: ...

    @property
    def coupling(self) -> Coupling: ...

    def __call__(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator, step: int = 0
    ) -> Tensor:
        """``step`` is that of the run, counted from 0: all that changes over a run is a function of it."""

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """The same functional at given quantiles of p(t) and noise: the loss of validation."""
