"""Times of a batch that are all the same, as in a step of a sampler."""

import torch
from torch import Tensor

MARK = "_oboro_same_time"


def same_time(x: Tensor, t: float) -> Tensor:
    """``t`` for every row of ``x`` (B, ...): (B,), of its type and on its device; ``shared`` knows it again."""
    times = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
    if type(times) is Tensor:  # no fake tensor, which is nothing to remember
        setattr(times, MARK, t)
    return times


def shared(t: Tensor) -> float | None:
    """The number that ``same_time`` made ``t`` of, without a look at the device; None for any other tensor."""
    return getattr(t, MARK, None)
