"""Tasks from checkpoints, and what they learned with an average of its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hydra.utils import instantiate
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.modality import Modality
from oboro.restore.memory import bounded
from oboro.restore.modality import modality_of


class Averages(Protocol):
    """The averaged weights of a task: ``oboro.ema.EMA``."""

    profiles: Any
    averages: dict[str, list[Tensor]]

    @property
    def default(self) -> str: ...

    def averaged(self, module: nn.Module) -> dict[str, nn.Parameter]: ...


class Task(Protocol):
    """What is needed of ``oboro.task.Task`` here, which imports what may be restored."""

    ema: Averages
    modality: Modality | None
    fingerprint: str | None
    learned_nodes: Any

    @property
    def learned(self) -> nn.Module: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> Any: ...

    def load_averages(self, checkpoint: dict[str, Any]) -> None: ...

    def get_submodule(self, target: str) -> nn.Module: ...

    @property
    def frozen(self) -> Mapping[str, nn.Module]: ...

    def named_children(self) -> Any: ...


def build_task(checkpoint: dict[str, Any], **parts: Any) -> Task:
    """The task of a checkpoint with its weights and averages; ``parts`` (sampler, guidance) replace its own.

    Another ``schedule`` for the denoiser leaves the network as it is: it sees functions of log-SNR alone.
    """
    config = {**checkpoint["config"]["task"], **parts}
    if "schedule" in parts:
        config["denoiser"] = {**config["denoiser"], "schedule": config.pop("schedule")}
    with bounded(checkpoint["state_dict"], "the checkpoint"):
        task = instantiate(config, _convert_="all")
    load_weights(task, checkpoint)
    task.modality, task.fingerprint = modality_of(checkpoint), checkpoint.get("fingerprint")
    if getattr(task, "learns_steps", False):
        own = checkpoint["config"]["task"]
        sampler, schedule = (
            instantiate(part, _convert_="all") for part in (own["sampler"], own["denoiser"]["schedule"])
        )
        task.learned_nodes = sampler.nodes(schedule)[:-1]
    return task.eval().requires_grad_(False)


def load_weights(task: Task, checkpoint: dict[str, Any]) -> None:
    """Weights and averages of ``checkpoint``. Raises ``UserError`` where they belong to another model."""
    check_fits(task, checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    task.load_averages(checkpoint)


WRAPPED = ("module.", "_orig_mod.")  # begin the names of weights in DataParallel and after torch.compile


def check_fits(task: Task, checkpoint: dict[str, Any]) -> None:
    """Raises ``UserError`` that names the first weight which is missing, superfluous or of another shape."""
    here, stored = task.state_dict(), checkpoint["state_dict"]
    for prefix in WRAPPED:
        if stored and all(name.startswith(prefix) for name in stored):
            raise UserError(
                f"the names of all weights in the checkpoint begin with {prefix}, as those of a model in a wrapper do; "
                "write it again with the state_dict() of the model itself."
            )
    for name in [*here, *(k for k in stored if k not in here)]:
        shapes = [form_of(state.get(name)) for state in (stored, here)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"the checkpoint is of another model than its own configuration: {name} is {shapes[0]} in the file and "
                f"{shapes[1]} by its configuration; somebody changed one of the two, use the file that train.py wrote."
            )
    missing = set(task.ema.profiles) - set(checkpoint["ema"]["averages"])
    if missing:
        raise UserError(f"the checkpoint has no weights averaged as {sorted(missing)}; choose its own ema=... option.")


def form_of(weight: Tensor | None) -> str:
    """The shape of a weight in words, with the type of one that is no real number: it would be cast without a word."""
    if weight is None:
        return "absent"
    return f"{tuple(weight.shape)}{'' if weight.is_floating_point() else f' {weight.dtype}'.replace('torch.', '')}"


TRAINING = {"loops", "optimizer_states", "lr_schedulers", "pytorch-lightning_version"}  # what Lightning goes on from


def check_trainable(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raises ``UserError`` for a checkpoint of weights alone, from which training cannot go on."""
    if not set(checkpoint) >= TRAINING:
        raise UserError(f"{path} holds weights and no state of training to go on with; start from it with init={path}.")
    empty = [key for key in sorted(TRAINING) if not checkpoint[key]]
    if empty or not has_progress(checkpoint["loops"]):
        raise UserError(
            f"{path} is not whole, there is nothing in its {empty[0] if empty else 'loops'} to go on with; use another "
            f".ckpt file of the run, or start from its weights with init={path}."
        )


def has_progress(loops: Mapping[str, Any]) -> bool:
    """Whether these are Lightning's counters of a run."""
    fit = loops.get("fit_loop")
    progress = fit.get("epoch_loop.batch_progress") if isinstance(fit, Mapping) else None
    return isinstance(progress, Mapping) and all(isinstance(progress.get(k), dict) for k in ("total", "current"))


def averaged(task: Task, path: str | Path, profile: str | None) -> nn.Module:
    """What ``task``, which was read from ``path``, learned, with an average of its weights; None is the first one."""
    if profile is not None and profile not in task.ema.profiles:
        raise UserError(f"{path} has no average {profile}; choose one of {', '.join(task.ema.profiles)}.")
    parameters = task.ema.averaged(task.learned).values()
    for p, average in zip(parameters, task.ema.averages[profile or task.ema.default], strict=True):
        p.data.copy_(average)
    return task.learned


def name_of_learned(task: Task) -> str:
    """The attribute of a task that holds what it learns, which is also the key of it in the task's configuration."""
    (name,) = (name for name, child in task.named_children() if child is task.learned)
    return name
