"""Files of weights, and weights under other names."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import save_file
from torch import nn
from yaml import YAMLError

from oboro.base.errors import UserError
from oboro.base.json_text import json_text
from oboro.base.yaml_file import check_yaml
from oboro.interop.hub import shards_of, weight_files
from oboro.interop.state import every, read_object, read_tensors
from oboro.restore import State
from oboro.restore.foreign import Foreign
from oboro.restore.plain import plain

# One of our names ↦ theirs: several are stacked along the first axis, none where only we have such a thing.
Names = Callable[[str], list[str]]
P = ParamSpec("P")
R = TypeVar("R")


def of_others(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` of the path of a model that others wrote: what it trips over there becomes a ``UserError``."""

    @wraps(function)
    def reading(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # a text for a number, a list for a text: all that settings can be and are not
            reason = " ".join(str(error).split())[:80].rstrip(".") or type(error).__name__
            raise UserError(
                f"{args[0]} is no model as it is read here, its settings are of another form ({reason}); get it again."
            ) from error

    return reading


class Settings(dict[str, Any]):
    """A configuration that others wrote to ``where``. Raises ``UserError`` for a key that is missing,
    on every level."""

    def __init__(self, values: Mapping[str, Any], where: Path):
        super().__init__({k: Settings(v, where) if isinstance(v, dict) else v for k, v in values.items()})
        self.where = where

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.where} has no {key}, so it describes something else than is read here; give another.")


def read_json(path: Path) -> Settings:
    """Raises ``UserError`` where there is no such file, or where it holds no object."""
    settings = read_object(path, "give a folder as save_pretrained writes it")
    return Settings(settings, path)


def read_yaml(path: Path) -> Settings:
    """Raises ``UserError`` where there is no such file, or where it holds no settings."""
    if not path.is_file():
        raise UserError(f"there is no {path}; give the YAML file that the weights were published with.")
    try:
        check_yaml(path, references=False)
        settings = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is no YAML file; give the one that the weights were published with.") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no settings; give the file that the weights were published with.")
    return Settings(settings, path)


def read_weights(folder: Path, *stems: str, wanted: Callable[[str], bool] = every) -> State:
    """The ``wanted`` of the first of ``weight_files(*stems)`` in a folder, as ``read_tensors`` has them; shards are put
    together.

    Raises ``UserError`` where none is there, where a shard is missing, or where a file is damaged.
    """
    path = next((folder / name for name in weight_files(*stems) if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} has neither {stems[0]}.safetensors nor {stems[-1]}.bin; get the folder again.")
    if path.suffix != ".json":
        return read_tensors(path, wanted)
    return read_tensors([folder / name for name in shards_of(path)], wanted)


def write_weights(path: Path, state: State) -> None:
    """A .safetensors file that PyTorch's programs read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.detach().cpu().contiguous() for key, value in state.items()}, path, {"format": "pt"})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json_text(value, indent=2) + "\n", encoding="utf-8")


def check_module(config: Mapping[str, Any], where: str | Path) -> None:
    """Raises ``UserError`` unless ``config``, whose values ``where`` brought, is a module with arguments of their types
    and bounds, of plain values: a dictionary in the place of a number could name a class."""
    Foreign({"model": plain(dict(config), where)}, where).value(nn.Module, ("model",))


def template(config: Mapping[str, Any], where: str | Path) -> State:
    """The state of the module that ``config`` describes, without memory: its names and shapes. ``UserError`` as
    ``check_module``."""
    check_module(config, where)
    with torch.device("meta"):
        return instantiate(config, _convert_="all").state_dict()


def ours(config: Mapping[str, Any], theirs: State, names: Names, where: str | Path) -> State:
    """``theirs`` under our names and in our shapes, float32; what only we have is left out.

    Raises ``UserError`` that names a weight which ``where`` lacks, has too much, or has in another size.
    """
    state, unread = {}, set(theirs)
    for name, wanted in template(config, where).items():
        sources = names(name)
        if not sources:
            continue
        missing = [source for source in sources if source not in theirs]
        if missing:
            raise UserError(f"{where} has no weight {missing[0]}, which its configuration asks for; get it again.")
        for source in sources:
            if not theirs[source].is_floating_point():
                raise UserError(
                    f"{where} has {source} as {str(theirs[source].dtype).removeprefix('torch.')}, quantised; get the "
                    "weights in 16 or 32 bits."
                )
        value = torch.cat([theirs[source].float() for source in sources])
        if value.numel() != wanted.numel():
            raise UserError(
                f"{where} has {sources[0]} of {tuple(value.shape)} and its configuration asks for "
                f"{tuple(wanted.shape)}; get it again."
            )
        state[name] = value.reshape(wanted.shape)
        unread -= set(sources)
    if unread:
        raise UserError(f"{where} has the weight {min(unread)}, for which there is no place; choose another model.")
    return state


def theirs(state: State, names: Names) -> State:
    """The inverse of ``ours``: attention that is a 1×1 convolution here is linear there."""
    renamed: State = {}
    for name, value in state.items():
        targets = names(name)
        if not targets:
            continue
        linear = name.endswith(("qkv.weight", "proj.weight")) and value.ndim == 4
        parts = (value.flatten(1) if linear else value).chunk(len(targets))
        renamed |= {target: part.clone() for target, part in zip(targets, parts, strict=True)}
    return renamed


def require(config: Mapping[str, Any], expected: Mapping[str, Any], where: str | Path) -> None:
    """Raises ``UserError`` for a key of ``config`` that is there and not as ``expected``."""
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise UserError(f"{where} has {key}={config[key]!r} and only {value!r} can be had; choose another model.")
