"""Parts that other runs or other programs left on disk, and how a configuration takes them in.

A node whose class is a ``Stored`` stands for a module that exists already. Before a run builds its task, ``inlined``
puts the module's own configuration in the place of the node, and its weights are loaded after the task is built. So
every checkpoint holds all that it needs, and the path is read when training starts or is resumed.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from oboro.base.errors import UserError

State = dict[str, Tensor]


class Stored(ABC):
    """A module on disk."""

    @abstractmethod
    def part(self) -> tuple[dict[str, Any], State]:
        """Its configuration, with a ``_target_``, and its weights. ``UserError`` where it is missing or not one."""

    def config(self) -> dict[str, Any]:
        """Its configuration alone, for which large weights need not be read."""
        return self.part()[0]


@dataclass(frozen=True)
class TrainedPart(Stored, ABC):
    """What the task of a checkpoint learned, with the average ``average`` of its weights; None is the first."""

    path: str

    @property
    def average(self) -> str | None:
        return None

    @property
    @abstractmethod
    def task(self) -> str:
        """The option of the group ``task`` that learns it."""

    def part(self) -> tuple[dict[str, Any], State]:
        from oboro.restore.checkpoint import load_learned  # which imports tasks, and they what may be stored

        return load_learned(self.path, self.task, self.average)


def inlined(node: Any, place: str = "") -> tuple[Any, dict[str, State]]:
    """``node`` with every stored part replaced by its configuration, and the weights of each by its place in it."""
    if isinstance(node, list):
        pairs = [inlined(child, f"{place}{i}.") for i, child in enumerate(node)]
        return [child for child, _ in pairs], {k: v for _, states in pairs for k, v in states.items()}
    if not isinstance(node, dict):
        return node, {}
    if "_target_" in node and issubclass(get_class(node["_target_"]), Stored):
        config, state = instantiate(node, _convert_="all").part()
        return config, {place.removesuffix("."): state}
    children = {key: inlined(child, f"{place}{key}.") for key, child in node.items()}
    return (
        {key: child for key, (child, _) in children.items()},
        {k: v for _, states in children.values() for k, v in states.items()},
    )


def load_parts(module: nn.Module, parts: dict[str, State]) -> None:
    """Load the weights that ``inlined`` found into ``module``, which was built from what it returned."""
    for place, state in parts.items():
        module.get_submodule(place).load_state_dict(state)


def value_of(target: str, path: str, *keys: str) -> Any:
    """One value of the configuration of the ``Stored`` of class ``target`` at ``path``: ``${stored:…}`` in YAML."""
    config = get_class(target)(path).config()
    for key in keys:
        if not isinstance(config, dict) or key not in config:
            raise UserError(f"what is stored in {path} has no {'.'.join(keys)}; choose another file.")
        config = config[key]
    return config


OmegaConf.register_new_resolver("stored", value_of, replace=True, use_cache=True)
