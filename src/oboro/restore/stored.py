"""Modules that are on disk already, and how a configuration takes them in.

A node whose class is a ``Stored`` stands for a module that exists. Before a run builds its task, ``inlined`` puts the
module's own configuration in the place of the node, and its weights are loaded after the task is built. So every
checkpoint holds all that it needs, and the path is read when training starts or is resumed.
"""

from abc import ABC, abstractmethod
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from oboro.base.errors import UserError

State = dict[str, Tensor]

# Of a task: what keeps the path of what it reads, because it belongs to sampling and not to what was trained.
BY_PATH = ("guidance",)


class Stored(ABC):
    """A module on disk."""

    @abstractmethod
    def load(self) -> tuple[dict[str, Any], State]:
        """Its configuration, with a ``_target_``, and its weights. ``UserError`` where it is missing or not one."""

    def config(self) -> dict[str, Any]:
        """Its configuration alone, for which large weights need not be read."""
        return self.load()[0]


def inlined(node: Any, place: str = "") -> tuple[Any, dict[str, State]]:
    """``node`` with every stored module replaced by its configuration, and the weights of each by its place in it."""
    if isinstance(node, list):
        pairs = [inlined(child, f"{place}{i}.") for i, child in enumerate(node)]
        return [child for child, _ in pairs], {k: v for _, states in pairs for k, v in states.items()}
    if not isinstance(node, dict):
        return node, {}
    if "_target_" in node and issubclass(get_class(node["_target_"]), Stored):
        config, state = instantiate(node, _convert_="all").load()
        return config, {place.removesuffix("."): state}
    children = {key: (child, {}) if key in BY_PATH else inlined(child, f"{place}{key}.") for key, child in node.items()}
    return (
        {key: child for key, (child, _) in children.items()},
        {k: v for _, states in children.values() for k, v in states.items()},
    )


def load_parts(module: nn.Module, parts: dict[str, State]) -> None:
    """Load the weights that ``inlined`` gave into ``module``, which was built from its configuration.

    A module that begins as one of its parts is (a ControlNet's copy as its base) is told so: ``begin()``.
    """
    for place, state in parts.items():
        module.get_submodule(place).load_state_dict(state)
        whole = module.get_submodule(place.rpartition(".")[0])
        if hasattr(whole, "begin"):
            whole.begin()


def value_of(place: str, *keys: str, _parent_: DictConfig) -> Any:
    """One value of the configuration that a ``Stored`` holds: ``${stored:.,channels}`` of the node that it stands in,
    ``${stored:encoder,dim}`` of the node ``encoder`` beside it.

    The value is resolved while the node that holds it is not, so what is ``stored`` in that node is left out.
    """
    node = _parent_ if place == "." else _parent_[place]
    plain = OmegaConf.to_container(node, resolve=False)
    settings = {k: node[k] for k, v in plain.items() if not (isinstance(v, str) and v.startswith("${stored:"))}
    try:
        config = instantiate(settings, _convert_="all").config()
    except UserError as error:
        key = node._get_full_key("path")
        raise UserError(str(error) if key in str(error) else f"{key}: {error}") from error
    for key in keys:
        if not isinstance(config, dict) or key not in config:
            raise UserError(f"what is stored at {node.get('path')} has no {'.'.join(keys)}; choose another file.")
        config = config[key]
    return config


OmegaConf.register_new_resolver("stored", value_of, replace=True)
