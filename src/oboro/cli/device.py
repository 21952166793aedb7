"""Which device and which precision a run computes in."""

import os
from typing import Any

import torch
from lightning.fabric.plugins.environments import (
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator

from oboro.base.counted import counted
from oboro.base.errors import UserError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
SHORT = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
CLUSTERS = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)
# What other words of Lightning do, and the nearest that is right.
REFUSED = dict.fromkeys(("bf16-true", "16-true"), "keeps weights in 16 bits")
REFUSED |= dict.fromkeys(("transformer-engine", "transformer-engine-float16"), "keeps weights in 16 and 8 bits")
REFUSED |= {"64-true": "keeps weights in 64 bits"}
INSTEAD = dict.fromkeys(REFUSED, "bf16-mixed") | {"16-true": "16-mixed", "transformer-engine-float16": "16-mixed"}
INSTEAD |= {"64-true": "32-true"}


def check_device(accelerator: Any, devices: Any, key: str = "") -> None:
    """Raises ``UserError`` where this machine has not got what is asked for; ``key`` is the node of both values."""
    kinds: dict[Any, Any] = {"cuda": CUDAAccelerator, "mps": MPSAccelerator}
    kind = kinds.get(device_type(accelerator))
    if device_type(accelerator) == "cpu" and not (devices == "auto" or (isinstance(devices, int) and devices > 0)):
        raise UserError(f"{key}devices={devices} chooses among GPUs and this runs on CPUs; set {key}devices=1 or more.")
    if kind is None:
        return
    if not kind.is_available():
        raise UserError(
            f"{key}accelerator={accelerator} needs a device that this machine has not got; set {key}accelerator=auto."
        )
    count = kind.auto_device_count()
    if isinstance(devices, int) and devices > count:
        raise UserError(f"{key}devices={devices} are more than the {count} of this machine; set {key}devices={count}.")


def check_nodes(nodes: int, key: str = "trainer.num_nodes") -> None:
    """Raises ``UserError`` where a run on several machines was started on one alone, where it would wait for ever."""
    by_hand = "MASTER_ADDR" in os.environ and any(name in os.environ for name in ("NODE_RANK", "GROUP_RANK", "RANK"))
    if nodes > 1 and not by_hand and not any(environment.detect() for environment in CLUSTERS):
        raise UserError(
            f"{key}={nodes} waits for {counted(nodes - 1, 'other machines')} and nothing has started this run there; "
            f"start it with torchrun or srun on each, or leave {key} out."
        )


def device_type(accelerator: str) -> str:
    """What Lightning's ``accelerator`` stands for here: "cuda", "mps" or "cpu"."""
    names = {"cuda": CUDAAccelerator, "mps": MPSAccelerator, "cpu": CPUAccelerator}
    if accelerator == "gpu":
        return "cuda" if CUDAAccelerator.is_available() else "mps"
    if accelerator == "auto":
        return next(name for name, a in names.items() if a.is_available())
    return accelerator


def resolve_precision(precision: str, accelerator: str, key: str = "precision") -> str:
    """The word of Lightning for ``precision``, the value of ``key``: 32-true, bf16-mixed or 16-mixed.

    ``auto`` is bfloat16 autocast where the device multiplies in it (CUDA from Ampere on, CPUs with AVX512-BF16 or AMX),
    else float32. Weights and averages are float32 in every case. Raises ``UserError`` for Lightning's other words,
    which change the type of the weights, and for float16 on a CPU, which has no autocast to it.
    """
    device, word = device_type(accelerator), SHORT.get(precision, precision)
    if word == "auto":
        return _fastest(device)
    if word in REFUSED:
        raise UserError(f"{key}={precision} {REFUSED[word]} and weights are float32 here; set {key}={INSTEAD[word]}.")
    if word not in PRECISIONS:
        typed = "null" if precision == "None" else precision
        raise UserError(f"there is no {key}={typed}; choose one of auto, {', '.join(PRECISIONS)}.")
    if word == "16-mixed" and device == "cpu":
        raise UserError(f"{key}={precision} is not to be had on CPUs; set {key}=bf16-mixed.")
    return word


def _fastest(device: str) -> str:
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if device == "cpu":
        capable = torch.cpu.get_capabilities()
        return "bf16-mixed" if capable.get("avx512_bf16") or capable.get("amx_bf16") else "32-true"
    return "32-true"


def as_trained(precision: str, accelerator: str) -> str:
    """The precision to draw in for a model that was trained in ``precision``, maybe on another kind of device."""
    half = SHORT.get(precision, precision) == "16-mixed" and device_type(accelerator) == "cpu"
    return "bf16-mixed" if half else resolve_precision(precision, accelerator)
