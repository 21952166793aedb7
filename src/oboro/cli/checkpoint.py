"""Checkpoints carry their configuration: a path is all that sampling and evaluation need."""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from hydra.utils import get_class, instantiate

from oboro.errors import UserError
from oboro.task import Diffusion

FROM_CHECKPOINT = ("sampler", "guidance", "metrics", "extractor", "data")
NESTED = {"sampler": "grid", "guidance": "weight"}  # a part that is chosen by itself: sampler/grid=karras
# What a configuration that came with a file may name; anything else could run code of the file's author.
TRUSTED = ("oboro.", "torch.optim.")
POLL = 5.0  # seconds between two looks at a folder


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The checkpoint at ``path``, tensors on the CPU. Raises ``UserError`` if it is missing or not one of ours."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; give the path of a .ckpt file that train.py wrote.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler trips over in a file that is not a checkpoint
        raise UserError(f"{path} is damaged or no checkpoint at all; use another .ckpt file.") from error
    if not isinstance(checkpoint, dict) or not {"config", "ema", "state_dict"} <= set(checkpoint):
        raise UserError(f"{path} was not written by oboro; give a .ckpt file that train.py wrote.")
    refuse_foreign_targets(checkpoint["config"], path)
    return checkpoint


def refuse_foreign_targets(node: Any, path: Path) -> None:
    """Raises ``UserError`` where the task, the data or the metrics hold more than plain values and classes of ours.

    Interpolations are refused too: they could make a ``_target_`` after the check, and ``train.py`` resolves them.
    """

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "_target_" in value and not is_trusted(value["_target_"]):
                raise UserError(
                    f"{path} wants to call {value['_target_']}, which is not a class of oboro; do not use this file."
                )
            for child in value.values():
                walk(child)
        elif isinstance(value, list):
            for child in value:
                walk(child)
        elif not isinstance(value, str | int | float | None) or (isinstance(value, str) and "${" in value):
            raise UserError(f"{path} has {value!r} in its configuration, no plain value; do not use this file.")

    for key in ("task", *FROM_CHECKPOINT):
        walk(node.get(key, {}))


def is_trusted(target: Any) -> bool:
    """Whether ``target`` names a class defined in ``TRUSTED``; ``oboro.errors.os.system`` would only pass through."""
    if not isinstance(target, str) or not target.startswith(TRUSTED):
        return False
    try:
        return get_class(target).__module__.startswith(TRUSTED)
    except Exception:  # no class, or no such name
        return False


def build_task(checkpoint: dict[str, Any], **parts: Any) -> Diffusion:
    """The task of a checkpoint with its weights and averages; ``parts`` (sampler, guidance) replace its own."""
    config = {**checkpoint["config"]["task"], **parts}
    task = instantiate(config, _convert_="all")
    restore(task, checkpoint)
    return task.eval().requires_grad_(False)


def restore(task: Diffusion, checkpoint: dict[str, Any]) -> None:
    """Raises ``UserError`` when the weights belong to another model."""
    check_fits(task, checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    task.ema.load_state_dict(checkpoint["ema"], task.denoiser)


def check_fits(task: Diffusion, checkpoint: dict[str, Any]) -> None:
    """Raises ``UserError`` that names the first weight which is missing, superfluous or of another shape."""
    here, there = task.state_dict(), checkpoint["state_dict"]
    for name in [*here, *(k for k in there if k not in here)]:
        shapes = [tuple(state[name].shape) if name in state else "absent" for state in (there, here)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"the checkpoint is of another model: {name} is {shapes[0]} in the file and {shapes[1]} here; "
                "choose the model=... and loss=... options that the checkpoint was trained with."
            )
    missing = set(task.ema.profiles) - set(checkpoint["ema"]["averages"])
    if missing:
        raise UserError(f"the checkpoint has no weights averaged as {sorted(missing)}; choose its own ema=... option.")


def latest_checkpoint(run: Path) -> Path:
    """Where a run keeps its newest checkpoint; waits for the first one. ``UserError`` if there is no such run."""
    if not run.is_dir():
        raise UserError(f"there is no run {run}; give the output folder of a train.py that is running or has run.")
    path = run / "checkpoints" / "last.ckpt"
    if not path.is_file():
        print(f"waiting for the first checkpoint, {path}", file=sys.stderr)
    while not path.is_file():
        time.sleep(POLL)
    return path


def offer_checkpoint(arguments: list[str]) -> None:
    """Make what ``checkpoint=PATH`` or ``watch=RUN`` was trained with the options called ``from_checkpoint``.

    So that ``sample.py checkpoint=PATH sampler.steps=10`` changes one value of what the checkpoint was trained with.
    Like every data option, that of the checkpoint chooses the extractor. Without such an argument the options are
    empty, which is enough for ``--help``.
    """
    paths = [p for a in arguments if a.startswith("checkpoint=") for p in a.removeprefix("checkpoint=").split(",")]
    runs = [a.removeprefix("watch=").strip("'\"") for a in arguments if a.startswith("watch=")]
    paths += [str(latest_checkpoint(Path(run).expanduser())) for run in runs]
    configs = [load_checkpoint(p.strip("'\""))["config"] for p in paths]
    for group in FROM_CHECKPOINT:
        nodes = [c.get(group, {}) for c in configs]
        if any(node != nodes[0] for node in nodes):
            raise UserError(
                f"these checkpoints differ in their {group}; sweep over checkpoints of one setting, or name {group}=..."
            )
        node = nodes[0] if nodes else {}
        store = ConfigStore.instance().store
        if group == "data":
            node = {"defaults": [{"/extractor@_global_.extractor": "from_checkpoint"}, "_self_"], **node}
        part = NESTED.get(group)
        if part is not None and (part in node or not node):
            store("from_checkpoint", node.get(part, {}), group=f"{group}/{part}")
            rest = {key: value for key, value in node.items() if key != part}
            node = {"defaults": [{part: "from_checkpoint"}, "_self_"], **rest}
        store("from_checkpoint", node, group=group)
