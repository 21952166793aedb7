"""What is NaN or infinite ends here, before it is a picture or a number that looks like any other."""

from collections.abc import Iterable

import torch
from torch import Tensor

from oboro.base import shards
from oboro.base.errors import UserError

FAR = 100.0  # in the range of the model, where data are within a few units of 0


def count_broken(samples: Tensor) -> int:
    """How many of ``samples`` (B, ...) hold a number that is NaN or infinite."""
    return int((~samples.isfinite()).reshape(len(samples), -1).any(1).sum()) if samples.numel() else 0


def check_finite(samples: Tensor, what: str, remedy: str) -> None:
    """Raises ``UserError`` unless all of ``samples`` (B, ...) are finite: "3 of 8 ``what`` hold NaN …; ``remedy``"."""
    if broken := count_broken(samples):
        raise UserError(f"{broken} of {len(samples)} {what} hold NaN or infinity; {remedy}.")


def first_broken(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The first name whose tensor is not finite; one wait for the device where all are. All ranks, where there are
    shards: each looks at its own, and all get the same answer."""
    given = list(tensors)
    own = [(name, shards.local(tensor)) for name, tensor in given]
    return shards.agreed(lambda: _first_broken(own), (tensor for _, tensor in given))


def _first_broken(tensors: list[tuple[str, Tensor]]) -> str | None:
    named = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not named:
        return None
    norms = torch._foreach_norm([tensor.detach() for _, tensor in named], float("inf"))
    if bool(torch.stack([norm.float() for norm in norms]).isfinite().all()):
        return None
    return next((name for name, tensor in named if not bool(tensor.isfinite().all())), None)
