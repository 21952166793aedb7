"""How much memory a module takes before it is built: what torch allocates is counted, and refused above a limit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

from torch import SymInt, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from oboro.base.errors import UserError

CALLS = 100  # of torch for each stored weight: making it, and filling it at first
SPARE_CALLS = 20_000
SPARE = 2**26  # values beside the weights: tables, draws of initial weights
TIMES = 6  # of what is stored: weights, and what is drawn and scaled to fill them at first


class _Counted(TorchDispatchMode):
    """Counts the values of tensors that are made from a size, before they are."""

    def __init__(self, values: int, calls: int, name: object):
        super().__init__()
        self.left, self.calls = values, calls
        self.name = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.left, self.calls = self.left - asked(func, args, kwargs), self.calls - 1
        if self.left < 0 or self.calls < 0:
            raise UserError(
                f"{self.name} has a configuration of a model many times larger than its weights; do not use this file."
            )
        return func(*args, **kwargs)


def asked(func: Any, args: Any, kwargs: Any) -> int:
    """How many values a function of torch makes of nothing."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if isinstance(size := given.get("size"), list | tuple) and all(isinstance(n, int | SymInt) for n in size):
        return 0 if func._schema.name in VIEWS else prod(max(int(n), 0) for n in size)
    if isinstance(steps := given.get("steps"), int):
        return steps
    if func._schema.name.startswith("aten::arange") and isinstance(end := given.get("end"), int | float):
        return int(abs(end - given.get("start", 0)) / abs(given.get("step", 1) or 1))
    return 0


VIEWS = ("aten::view", "aten::_unsafe_view", "aten::expand", "aten::as_strided", "aten::reshape", "aten::resize_")


@contextmanager
def bounded(state: Mapping[str, Tensor], name: object) -> Iterator[None]:
    """In the block, no more is allocated than modules with the weights ``state`` need; ``UserError`` before it is."""
    values = sum(weight.numel() for weight in state.values())
    with _Counted(TIMES * values + SPARE, CALLS * len(state) + SPARE_CALLS, name):
        yield
