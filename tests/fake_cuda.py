"""A CUDA device that need not exist: tensors with a shape, a type and a device, and no values.

Inside of ``FakeCUDA()`` whatever touches it is traced by ``torch._subclasses.FakeTensorMode``, and what stays on the
CPU is computed as ever. An operation on tensors of two devices raises, and so does one that needs a value of the
device, like ``.item()``, ``bool(tensor)`` or ``nonzero``: on a real one the CPU would wait for it.
"""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._pytree import tree_leaves

Waits = (DataDependentOutputException, DynamicOutputShapeException)


class FakeCUDA(FakeTensorMode):
    """``on_host``: the operations that made a tensor with dimensions on the CPU. ``fetched``: those that copied one
    from the device."""

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.on_host: list[str] = []
        self.fetched: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = tree_leaves((args, kwargs))
        faked = any(isinstance(v, FakeTensor) or (isinstance(v, torch.device) and v.type == "cuda") for v in given)
        out = super().__torch_dispatch__(func, types, args, kwargs or {}) if faked else func(*args, **(kwargs or {}))
        if any(isinstance(v, Tensor) and v.device.type == "cpu" and v.ndim > 0 for v in tree_leaves(out)):
            (self.fetched if faked else self.on_host).append(str(func))
        return out


def derivative(outputs, inputs, *_, **__):
    """``torch.autograd.grad``, whose engine asks for a real device: gradients lie where the inputs do."""
    return tuple(torch.empty_like(v) for v in ([inputs] if isinstance(inputs, Tensor) else inputs))
