"""ControlNets when samples are drawn: how much each counts and when, and several that are added up."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.cli.composed_values import plain
from oboro.conditioner import Control, Joint
from oboro.conditioner.control import times
from oboro.model.controlled import Controlled
from oboro.restore.checkpoint import check_kind, load_checkpoint
from oboro.restore.rebuild import averaged, build_task
from oboro.task import Generation


def control(config: DictConfig, task: Generation) -> None:
    """Add the ControlNets of the checkpoints ``controls`` to that of ``task``, and set ``control_strength`` and
    ``control_interval``: one for all, or one for each, that of ``task`` first.

    Raises ``UserError`` for a checkpoint of another base, and where there is nothing to set.
    """
    for path in as_list(config.controls):
        add(task, path, config.profile)
    singles = [single for single in task.conditioner.singles if isinstance(single, Control)]
    for key in ("control_strength", "control_interval"):
        if config[key] is not None and not singles:
            raise UserError(
                f"{key} is for a ControlNet and the checkpoint has none; give one that was trained with "
                "model=controlnet or model=t2i_adapter."
            )
    strengths, intervals = as_list(config.control_strength), as_list(config.control_interval)
    if intervals and not isinstance(intervals[0], list):
        intervals = [intervals]
    for single, strength in zip(singles, for_each(strengths, "control_strength", len(singles)), strict=True):
        single.strength = single.strength if strength is None else strength
    for single, interval in zip(singles, for_each(intervals, "control_interval", len(singles)), strict=True):
        single.interval = single.interval if interval is None else times(interval)


def as_list(value: Any) -> list[Any]:
    value = plain(value)
    return value if isinstance(value, list) else [] if value is None else [value]


def for_each(values: list[Any], key: str, count: int) -> list[Any]:
    """One for each of ``count`` ControlNets; None where there is none. Raises ``UserError`` for another number."""
    if len(values) not in (0, 1, count):
        raise UserError(
            f"{key} has {len(values)} values for {counted(count, 'ControlNets')}; give one, or one for each."
        )
    return values * count if len(values) == 1 else values or [None] * count


def add(task: Generation, path: str, profile: str | None) -> None:
    """The ControlNet of the checkpoint ``path``, with averaged weights, beside that of ``task``."""
    checkpoint = load_checkpoint(path)
    check_kind(checkpoint, path, "diffusion")
    other = build_task(checkpoint)
    averaged(other, path, profile)
    here, there = task.denoiser.network, other.denoiser.network
    for network, name in ((here, "checkpoint"), (there, f"controls={path}")):
        if not isinstance(network, Controlled):
            raise UserError(
                f"{name} has no ControlNet; give one that was trained with model=controlnet or t2i_adapter."
            )
    if not alike(here.base, there.base):
        raise UserError(f"the ControlNet of {path} is for another base; add those of one base alone.")
    count = len(here.branches)
    (single,) = (single for single in other.conditioner.singles if single.name == there.branches[0].signal)
    single.name = f"control_{count}"
    if not single.computed:  # those that are computed are of the same picture
        single.entry = f"{single.entry}_{count}"
    here.add(there.branches[0], single.name)
    if not isinstance(task.conditioner, Joint):
        task.conditioner = Joint({"control": task.conditioner})
    task.conditioner.parts[single.name] = single


def alike(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules have the same weights."""
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(w, states[1][k]) for k, w in states[0].items())
