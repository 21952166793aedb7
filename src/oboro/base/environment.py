"""Which values of a configuration come from the environment."""

from collections.abc import Iterator

from omegaconf import DictConfig, ListConfig, OmegaConf

from oboro.base.paths import places_of
from oboro.base.secret import Place, noted


def from_environment(config: DictConfig) -> set[Place]:
    """The places of a configuration whose values come from variables of the environment, through any reference; without
    those that their class calls paths: a checkpoint needs these."""
    return set(_places(config, ()))


def _places(node: DictConfig | ListConfig, place: Place) -> Iterator[Place]:
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    paths = places_of(target) if isinstance(target, str) else {}
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        if OmegaConf.is_missing(node, key) or key in paths:
            continue
        with noted() as names:
            value = node[key]
        if isinstance(value, DictConfig | ListConfig):
            yield from _places(value, (*place, key))
        elif names:
            yield (*place, key)
