"""python train.py plan=true: what a run is going to take, printed before anything is paid for it."""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig, OmegaConf, open_dict

from oboro.base.errors import UserError
from oboro.base.json_text import json_text
from oboro.base.memory import machine
from oboro.callbacks.summary import Summary
from oboro.cli.device import device_type
from oboro.cli.prepare import Built, built_parts, in_steps, resolved
from oboro.cli.running import mark
from oboro.plan import Item, Plan, Probe
from oboro.plan.plan import all_reduce_seconds
from oboro.plan.probe import VALIDATED_AFTER
from oboro.report.plan import print_plan

VALIDATED = 20  # batches of validation that are looked at
BANDWIDTH = {"cpu": 1.0, "cuda": 100.0, "mps": 1.0}  # GB/s inside of a machine
BETWEEN_MACHINES = 10.0


def plan(config: DictConfig) -> None:
    """Train for some steps on one device, in a folder that is removed, look at each evaluation, and print what the
    whole run takes on the devices that are asked for; ``plan.json`` has the same numbers.

    On several devices a step is that of one device with its part of the batch, on CPUs in its part of the threads, and
    the time to add up the gradients (``all_reduce_seconds``), none of which is taken for hidden behind the computation.
    Raises ``UserError`` for a run that goes on from another one.
    """
    if config.resume:
        raise UserError("plan=true plans a run from its first step on; leave resume out.")
    folder, whole, nodes = Path(config.output_dir), OmegaConf.to_container(config), config.trainer.get("num_nodes", 1)
    devices = count(config.trainer.devices, config.trainer.accelerator) * nodes
    with open_dict(config):
        config.trainer.update(devices=1, num_nodes=1, strategy="auto")
    mark(folder, finished=False)
    with TemporaryDirectory(prefix="oboro-plan-") as temporary:
        config.output_dir = temporary
        probe, built = probed(config.copy(), Probe())
        step_seconds, step_share = probe.step_seconds, probe
        if devices > 1:
            step_share, _ = probed(shared(config.copy(), devices), Probe(evaluates=False), devices)
            speed = 1e9 * (config.plan_bandwidth or (BETWEEN_MACHINES if nodes > 1 else BANDWIDTH[kind(config)]))
            step_seconds = step_share.step_seconds + all_reduce_seconds(probe.bytes["gradients"], devices, speed)
    made = Plan(
        steps=config.trainer.max_steps,
        batch_size=built.data.batch_size,
        devices=devices,
        step_seconds=step_seconds,
        startup_seconds=probe.startup_seconds,
        items=tuple(items(config, probe, built)),
        price=config.plan_price,
    )
    memory = {**probe.bytes, "activations": step_share.bytes["activations"]}
    facts = {
        "parameters": sum(p.numel() for p in built.task.parameters() if p.requires_grad),
        "operations_per_sample": probe.operations / built.data.batch_size,
        "bytes": memory,
        "memory": available(built.task.device),
    }
    print_plan(made, facts)
    numbers = {**asdict(made), **facts, "seconds": made.seconds, "cost": made.cost, "trainer": whole["trainer"]}
    (folder / "plan.json").write_text(json_text(numbers, indent=2) + "\n", encoding="utf-8")


def probed(config: DictConfig, probe: Probe, processes: int = 1) -> tuple[Probe, Built]:
    """What ``probe`` sees of the run, in the threads that each of so many processes would have on CPUs."""
    plain, parts, stored = resolved(config)
    built = built_parts(config, plain, parts, stored)
    callbacks = [c for c in built.callbacks if not isinstance(c, ProgressBar | Summary)]
    if not probe.evaluates:
        callbacks = []
    settings = in_steps(plain["trainer"], callbacks)
    interval = VALIDATED_AFTER * settings["accumulate_grad_batches"]
    settings |= {"limit_val_batches": VALIDATED if probe.evaluates else 0, "val_check_interval": interval}
    for name in ("max_time", "min_steps"):
        settings.pop(name, None)
    trainer = instantiate(settings, callbacks=[probe, *callbacks], logger=False, _convert_="all")
    threads = torch.get_num_threads()
    try:
        if kind(config) == "cpu":
            torch.set_num_threads(max(threads // processes, 1))
        trainer.fit(built.task, built.data)
    finally:
        torch.set_num_threads(threads)
    return probe, built


def shared(config: DictConfig, devices: int) -> DictConfig:
    """The run with the part of the batch that one of ``devices`` has. Raises ``UserError`` where that is no number of
    samples."""
    batch = config.data.batch_size
    if batch % devices:
        raise UserError(f"data.batch_size={batch} cannot be shared by {devices} devices; make it a multiple.")
    config.data.batch_size = batch // devices
    return config


def items(config: DictConfig, probe: Probe, built: Built) -> list[Item]:
    """Validation, and what the probe saw of the rest."""
    every, steps = config.trainer.val_check_interval, config.trainer.max_steps
    batches = len(built.data.val_dataloader()) if probe.validation_seconds else 0
    count = steps // every if isinstance(every, int) else 1
    validation = Item("validation", batches * probe.validation_seconds, count if batches else 0)
    return [item for item in (validation, *probe.items) if item.times and item.seconds]


def count(devices: Any, accelerator: str) -> int:
    """How many devices Lightning's ``devices`` are."""
    if isinstance(devices, int) and devices > 0:
        return devices
    if devices in ("auto", -1, "-1"):
        kinds: dict[str, Any] = {"cuda": CUDAAccelerator, "mps": MPSAccelerator}
        counting = kinds.get(device_type(accelerator))
        return 1 if counting is None else counting.auto_device_count()
    return len(devices.split(",")) if isinstance(devices, str) else len(devices)


def kind(config: DictConfig) -> str:
    return device_type(str(config.trainer.accelerator))


def available(device: torch.device) -> int:
    """Bytes of memory of ``device``, or of the machine."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else machine()[0]
