"""Which device and which precision a run computes in."""

from typing import Any

import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator

from oboro.base.errors import UserError


def check_device(accelerator: Any, devices: Any, key: str = "") -> None:
    """Raises ``UserError`` where this machine has not got what is asked for; ``key`` is the node of both values."""
    kinds: dict[Any, Any] = {"cuda": CUDAAccelerator, "mps": MPSAccelerator}
    kind = kinds.get(device_type(accelerator))
    if kind is None:
        return
    if not kind.is_available():
        raise UserError(
            f"{key}accelerator={accelerator} needs a device that this machine has not got; set {key}accelerator=auto."
        )
    count = kind.auto_device_count()
    if isinstance(devices, int) and devices > count:
        raise UserError(f"{key}devices={devices} are more than the {count} of this machine; set {key}devices={count}.")


def device_type(accelerator: str) -> str:
    """What Lightning's ``accelerator`` stands for here: "cuda", "mps" or "cpu"."""
    names = {"cuda": CUDAAccelerator, "mps": MPSAccelerator, "cpu": CPUAccelerator}
    if accelerator == "gpu":
        return "cuda" if CUDAAccelerator.is_available() else "mps"
    if accelerator == "auto":
        return next(name for name, a in names.items() if a.is_available())
    return accelerator


def resolve_precision(precision: str, accelerator: str) -> str:
    """``auto``: bfloat16 autocast where the device multiplies in it (CUDA from Ampere on, CPUs with AVX512-BF16 or
    AMX), else float32. Anything else as it is."""
    if precision != "auto":
        return precision
    device = device_type(accelerator)
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if device == "cpu":
        capable = torch.cpu.get_capabilities()
        return "bf16-mixed" if capable.get("avx512_bf16") or capable.get("amx_bf16") else "32-true"
    return "32-true"
