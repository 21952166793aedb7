"""Training beside a network of another run that stays as it is (``model=controlnet``): what belongs to that network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from oboro.base.errors import UserError
from oboro.restore.checkpoint import check_kind, load_checkpoint
from oboro.restore.merge import merged
from oboro.restore.modality import modality_of
from oboro.restore.rebuild import Task, build_task
from oboro.restore.start import alike


def joined(conditioner: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a conditioner as that of a joint one, whose parts are called by their classes: ``label``."""
    kind = get_class(conditioner["_target_"]).__name__.lower()
    if kind == "joint":
        return conditioner
    parts = {} if kind == "unconditional" else {kind: conditioner}
    return {"_target_": "oboro.conditioner.Joint", "parts": parts, "dropout": 0.0}


def take_parts(task: Task, path: str | Path, given: Sequence[str]) -> set[str]:
    """Give ``task``, which wraps the network of the checkpoint ``path``, the codec and the encoders of conditions that
    this network was trained with, except the parts ``given`` weights already; the names of the parts that have theirs.

    Raises ``UserError`` where ``task`` holds the network's output for something else, or has another codec or encoder:
    the network would see what it was never trained on.
    """
    checkpoint = merged(load_checkpoint(path))
    check_kind(checkpoint, path, "diffusion")
    source = build_task(checkpoint)
    here, there = (built.get_submodule("denoiser").parameterization for built in (task, source))
    if type(here) is not type(there) or vars(here) != vars(there):
        raise UserError(
            f"the network of {path} predicts {type(there).__name__} and this run takes it for {type(here).__name__}; "
            "leave parameterization out, it comes with model.base.path on the command line."
        )
    copy(task.get_submodule("codec"), source.get_submodule("codec"), "codec", path, given)
    twins = {single.name: single for single in singles(source)}
    for single in singles(task):
        if single.name in twins and weighs(twins[single.name]):
            copy(single, twins[single.name], "conditioner", path, given)
    return {name for name in ("codec", "conditioner") if weighs(source.get_submodule(name))} | {"denoiser"}


def singles(task: Task) -> Any:
    return task.get_submodule("conditioner").singles


def weighs(module: nn.Module) -> bool:
    return bool(module.state_dict())


def copy(part: nn.Module, of_base: nn.Module, name: str, path: str | Path, given: Sequence[str]) -> None:
    """The weights ``of_base`` for ``part``, or a comparison where it has some."""
    state = of_base.state_dict()
    same = alike(part, of_base)
    if same and not any(place.partition(".")[0] == name for place in given):
        part.load_state_dict(state)
    elif not same or any(not torch.equal(w, state[key]) for key, w in part.state_dict().items()):
        raise UserError(
            f"the network of {path} was trained with another {name}, {type(of_base).__name__} of its own weights; "
            f"leave {name} out, it comes with model.base.path on the command line."
        )


def hint_factor(*, _parent_: DictConfig) -> int:
    """``${hint_factor:}`` in ``model``: how many pixels along an axis the codec of the checkpoint ``base.path`` makes
    one of; 1 where the base names none."""
    base = _parent_.get("base") or {}
    if "path" not in base:
        return 1
    checkpoint = load_checkpoint(base["path"])
    check_kind(checkpoint, base["path"], "diffusion")
    shape = modality_of(checkpoint).shape
    with torch.device("meta"):
        codec = instantiate(checkpoint["config"]["task"]["codec"], _convert_="all")
    sizes = zip(shape[1:], codec.latent_shape(shape)[1:], strict=True)
    return max(-(-n // m) for n, m in sizes)


OmegaConf.register_new_resolver("hint_factor", hint_factor, replace=True)
