"""What a task of noise levels needs of its loss."""

from typing import Protocol

import torch
from torch import Tensor

from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss.coupling import Coupling


class Loss(Protocol):
    """(denoiser, x (B, ...), cond, generator) ↦ the loss of each sample (B,).

    ``teaches_variance``: the network has twice the channels of a sample. ``teaches_jumps``: to the end of the flow.
    """

    teaches_variance: bool
    teaches_jumps: bool

    @property
    def coupling(self) -> Coupling: ...

    def __call__(self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator) -> Tensor: ...

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """The same functional at given quantiles of p(t) and noise: the loss of validation."""
