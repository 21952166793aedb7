"""Floating-point operations of what is computed."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Operations(TorchDispatchMode):
    """Counts the operations of matrix products, convolutions and attention inside, a product and a sum as two.

    By torch's own formulas. ``FlopCounterMode``, which they belong to, watches modules as well, and then forbids
    ``torch.autograd.grad`` inside, which penalties and derivatives need.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out
