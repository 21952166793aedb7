"""Dropout whose masks can be those of one process, whatever the number of ranks and micro-batches."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.draws import check_rows


class Dropout(nn.Dropout):
    """x mask / (1 - p) with P(mask = 1) = 1 - p in training, from the global generator as torch's.

    With ``rows`` (b,) and ``size`` the mask is that of a batch of ``size`` samples, of which these are the rows.
    """

    rows: Tensor | None = None
    size: int = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.rows is None or not self.training or self.p == 0:
            return super().forward(x)
        check_rows(len(x), self.rows)
        whole = torch.ones(self.size, *x.shape[1:], dtype=x.dtype, device=x.device)
        return x * F.dropout(whole.contiguous(memory_format=layout(x)), self.p)[self.rows]


def layout(x: Tensor) -> torch.memory_format:
    """The order in memory: masks are drawn in it."""
    last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


# Whose classes do not read the global generator, but for dropout.
KNOWN = {"oboro", "torch", "lightning", "abc", "builtins", "typing"}
RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


def dropouts(modules: Iterable[nn.Module]) -> list[Dropout] | None:
    """The dropout of ``modules`` in training mode; None where others may read the global generator, too.

    On ranks that have it in the same state these would draw the same numbers for different samples.
    """
    trained = [module for module in modules if module.training]
    return [m for m in trained if isinstance(m, Dropout)] if all(map(known, trained)) else None


def known(module: nn.Module) -> bool:
    """Whether it is certain not to read the global generator, if it is no ``Dropout``."""
    if any(c.__module__.partition(".")[0] not in KNOWN for c in type(module).__mro__):
        return False
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return not module.dropout
    return isinstance(module, Dropout) or not isinstance(module, RANDOM)
