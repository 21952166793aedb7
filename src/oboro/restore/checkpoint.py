"""Checkpoints: tensors, plain containers and the configuration they were trained with, so that a path is enough."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import copy, deepcopy
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from hydra.utils import get_class, instantiate
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.denoiser import Cond
from oboro.restore.trust import check_targets
from oboro.schedule import Schedule
from oboro.task import Task

# What evaluate.py and sample.py take from a checkpoint unless told otherwise.
FROM_CHECKPOINT = ("schedule", "sampler", "guidance", "metrics", "extractor", "data")
READ_LATER = ("oboro.restore.checkpoint.", "oboro.extractor.TrainedCLIP")  # classes that keep the path of a checkpoint


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


def refuse_foreign_targets(config: dict[str, Any], path: Path) -> None:
    """Raises ``UserError`` where the task, the data or the metrics hold more than plain values and classes that are
    trusted.

    Interpolations are refused too: they could make a ``_target_`` after the check, and ``train.py`` resolves them.
    """
    for value in values(config):
        if not isinstance(value, str | int | float | None) or (isinstance(value, str) and "${" in value):
            raise UserError(f"{path} has {value!r} in its configuration, no plain value; do not use this file.")
    check_targets(targets(config), path)


def nodes(config: dict[str, Any]) -> Iterator[Any]:
    """Every value, mapping and list in those parts of a configuration that a checkpoint is built from."""
    waiting = [config[key] for key in ("task", *FROM_CHECKPOINT) if key in config]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def values(config: dict[str, Any]) -> list[Any]:
    return [node for node in nodes(config) if not isinstance(node, dict | list)]


def targets(config: dict[str, Any]) -> list[Any]:
    """What a configuration calls."""
    return [node["_target_"] for node in nodes(config) if isinstance(node, dict) and "_target_" in node]


def check_kind(checkpoint: dict[str, Any], path: str | Path, kind: str) -> None:
    """Raises ``UserError`` where the checkpoint is not one of ``task=<kind>``."""
    held = get_class(checkpoint["config"]["task"]["_target_"]).__name__.lower()
    if held != kind:
        raise UserError(f"{path} is a checkpoint of task={held}; give one that train.py wrote with task={kind}.")


def build_task(checkpoint: dict[str, Any], **parts: Any) -> Task:
    """The task of a checkpoint with its weights and averages; ``parts`` (sampler, guidance) replace its own.

    Another ``schedule`` for the denoiser leaves the network as it is: it sees functions of log-SNR alone.
    """
    config = {**checkpoint["config"]["task"], **parts}
    if "schedule" in parts:
        config["denoiser"] = {**config["denoiser"], "schedule": config.pop("schedule")}
    task = instantiate(config, _convert_="all")
    restore(task, checkpoint)
    return task.eval().requires_grad_(False)


def restore(task: Task, checkpoint: dict[str, Any]) -> None:
    """Raises ``UserError`` when the weights belong to another model."""
    check_fits(task, checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    task.ema.load_state_dict(checkpoint["ema"], task.learned)


def check_fits(task: Task, checkpoint: dict[str, Any]) -> None:
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


def check_resumable(task: Task, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raises ``UserError`` where training cannot go on from the checkpoint with ``task``."""
    if not {"loops", "optimizer_states"} <= set(checkpoint):
        raise UserError(f"{path} holds weights and no state of training to go on with; start from it with init={path}.")
    check_fits(task, checkpoint)


def averaged(task: Task, path: str | Path, profile: str | None) -> nn.Module:
    """What ``task``, which was read from ``path``, learned, with an average of its weights; None is the first one."""
    if profile is not None and profile not in task.ema.profiles:
        raise UserError(f"{path} has no average {profile}; choose one of {', '.join(task.ema.profiles)}.")
    parameters = task.ema.averaged(task.learned).values()
    for p, average in zip(parameters, task.ema.averages[profile or task.ema.default], strict=True):
        p.data.copy_(average)
    return task.learned


def learned(path: str | Path, kind: str, profile: str | None = None) -> tuple[dict[str, Any], nn.Module]:
    """What a checkpoint of ``task=<kind>`` learned, with an average of its weights, and the configuration of that.

    Raises ``UserError`` where there is no such checkpoint or average, or where it is another task's.
    """
    checkpoint = load_checkpoint(path)
    check_kind(checkpoint, path, kind)
    task = build_task(checkpoint)
    (name,) = (name for name, child in task.named_children() if child is task.learned)
    return checkpoint["config"]["task"][name], averaged(task, path, profile)


@lru_cache(maxsize=2)
def _load_learned(
    path: Path, modified: int, kind: str, profile: str | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config, module = learned(path, kind, profile)
    return config, module.state_dict()


def load_learned(path: str | Path, kind: str, profile: str | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights of ``learned``, which are remembered until the file changes."""
    path = Path(path).expanduser()
    config, state = _load_learned(path, path.stat().st_mtime_ns if path.is_file() else 0, kind, profile)
    return deepcopy(config), state


def with_absolute_paths(node: Any) -> Any:
    """A configuration in which the files of ``Trained`` parts are found from every folder."""
    if isinstance(node, list):
        return [with_absolute_paths(child) for child in node]
    if not isinstance(node, dict):
        return node
    copied = {key: with_absolute_paths(child) for key, child in node.items()}
    if str(node.get("_target_")).startswith(READ_LATER):
        copied["path"] = str(Path(node["path"]).expanduser().resolve())
    return copied


class Trained(ABC):
    """What the task of a checkpoint learned, frozen, with the average ``profile`` of its weights; None is the first.

    The file is read when it is first asked for, which raises ``UserError`` if there is no such checkpoint or average,
    or if it is of another task than ``kind``.
    """

    def __init__(self, path: str | Path, profile: str | None = None):
        self.path = path
        self.profile = profile

    @property
    @abstractmethod
    def kind(self) -> str:
        """The option of the group ``task`` that learns it."""

    @cached_property
    def _learned(self) -> nn.Module:
        if not Path(self.path).expanduser().is_file():
            raise UserError(
                f"guidance needs the checkpoint {self.path} and there is none; change the path below guidance, or "
                "choose guidance=unguided."
            )
        return learned(self.path, self.kind, self.profile)[1]

    @property
    def network(self) -> nn.Module:
        return self._learned.network

    @property
    def schedule(self) -> Schedule:
        return self._learned.schedule

    def reschedule(self, schedule: Schedule) -> Self:
        """The same network on another schedule."""
        other = copy(self)
        other._learned = self._learned.reschedule(schedule)
        return other


class TrainedDenoiser(Trained):
    """The denoiser of a checkpoint of ``task=diffusion``."""

    @property
    def kind(self) -> str:
        return "diffusion"

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        known = cond if self.network.num_classes or self.network.text_dim else {}  # without conditions: asked without
        return self._learned.to(x_t.device, x_t.dtype)(x_t, t, known)


class TrainedClassifier(Trained):
    """The classifier of noisy images of a checkpoint of ``task=classification``."""

    @property
    def kind(self) -> str:
        return "classification"

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self._learned.to(x_t.device, x_t.dtype)(x_t, t)
