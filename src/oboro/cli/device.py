"""Which device and which precision a run computes in."""

import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator


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
