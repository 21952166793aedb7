"""The arithmetic in which float32 numbers are multiplied."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_backends: Any = torch.backends  # which checkers of types take for modules
cuda, cudnn, mkldnn = _backends.cuda, _backends.cudnn, _backends.mkldnn

OPERATIONS = (cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn)


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, convolutions and matrix products keep all 24 bits of float32; outside they are as they were set before.

    By default PyTorch rounds the inputs of cuDNN's convolutions to TF32, 11 bits, on GPUs from Ampere on, and
    ``torch.set_float32_matmul_precision`` allows it for matrix products. The flags are global to the process.
    """
    before = [operation.fp32_precision for operation in OPERATIONS]
    former = _former()
    try:
        if former is not None:  # both interfaces have to agree: readers of the former one raise otherwise
            cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("highest")
        for operation in OPERATIONS:
            operation.fp32_precision = "ieee"
        yield
    finally:
        if former is not None:
            cudnn.allow_tf32, products = former
            torch.set_float32_matmul_precision(products)
        for operation, precision in zip(OPERATIONS, before, strict=True):
            operation.fp32_precision = precision


def _former() -> tuple[bool, str] | None:
    """What the flags before PyTorch 2.9 say; None where the program has set them apart from those that came after."""
    try:
        return cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def rounded_to_tf32() -> list[str]:
    """Of "convolutions" and "matrix products" those whose float32 inputs CUDA rounds to TF32 as it is set."""
    kinds = {"convolutions": cudnn.conv, "matrix products": cuda.matmul}
    return [name for name, operation in kinds.items() if operation.fp32_precision == "tf32"]


WITHOUT_FLOAT64 = {"mps"}  # types of devices


def double(x: Tensor) -> Tensor:
    """``x`` in float64: on its device, or on the CPU where the device has no such numbers."""
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).double()
