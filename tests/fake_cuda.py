"""A CUDA device that need not exist: tensors with a shape, a type and a device, and no values.

Inside of ``FakeCUDA()`` whatever touches it is traced by ``torch._subclasses.FakeTensorMode``, and what stays on the
CPU is computed as ever. An operation on tensors of two devices raises, and so does one that needs a value of the
device, like ``.item()``, ``bool(tensor)``, ``nonzero`` or ``.cpu()``: the host would wait for a real one.
"""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._pytree import tree_leaves, tree_map_only

Waits = (DataDependentOutputException, DynamicOutputShapeException)


class FakeCUDA(FakeTensorMode):
    """``on_host``: the operations that made a tensor with dimensions on the CPU.

    With an ``answer`` every value that the host asks for is that number, to see what comes after.
    """

    def __init__(self, answer: float | None = None):
        super().__init__(allow_non_fake_inputs=True)
        self.answer = answer
        self.on_host: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = tree_leaves((args, kwargs))
        if not any(isinstance(v, FakeTensor) or (isinstance(v, torch.device) and v.type == "cuda") for v in given):
            out = func(*args, **(kwargs or {}))
            self.on_host += [str(func)] * any(v.ndim > 0 for v in host(out))
            return out
        if self.answer is not None and func is torch.ops.aten._local_scalar_dense.default:
            return torch.tensor(self.answer).to(args[0].dtype).item()
        out = super().__torch_dispatch__(func, types, args, kwargs or {})
        if not host(out):
            return out
        if self.answer is None:
            raise DataDependentOutputException(func)  # copied from the device
        return tree_map_only(Tensor, lambda v: torch.full(v.shape, self.answer, dtype=v.dtype), out)


class WithoutFloat64(FakeCUDA):
    """A device that has no float64, as Apple's: whatever makes such a tensor there raises.

    ``.to(device, type)`` is one operation, which rounds before it copies; the steps that it is traced in are not.
    """

    def __init__(self):
        super().__init__(answer=0.5)
        self._inside = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outermost, self._inside = not self._inside, True
        try:
            out = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._inside = not outermost
        tensors = [v for v in tree_leaves(out) if isinstance(v, Tensor)] if outermost else []
        if any(v.device.type == "cuda" and v.dtype == torch.float64 for v in tensors):
            raise TypeError(f"{func} makes float64 on a device that has none")
        return out


def host(out) -> list[Tensor]:
    return [v for v in tree_leaves(out) if isinstance(v, Tensor) and v.device.type == "cpu"]


def derivative(outputs, inputs, *_, **__):
    """``torch.autograd.grad``, whose engine asks for a real device: gradients lie where the inputs do."""
    return tuple(torch.empty_like(v) for v in ([inputs] if isinstance(inputs, Tensor) else inputs))
