"""A group within a group: what is typed for it is what the run has, whatever other options set for their own choice."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.default_element import ResultDefault
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict


@contextmanager
def typed_choices_stand_alone() -> Iterator[None]:
    """``loss=mean_flow loss/time=uniform``: the ``loc`` that mean_flow sets is for the ``loss/time`` of its own choice,
    and is left out of the composed configuration. What is typed for a key still counts, and where the typed choice is
    the option's own, its values stay.
    """
    compose, load = ConfigLoaderImpl._load_configuration_impl, ConfigLoaderImpl._load_single_config
    places: set[str] = set()

    def composing(self: Any, config_name: str | None, overrides: list[str], run_mode: RunMode, **rest: Any) -> Any:
        places.clear()
        places.update(changed(self, config_name, overrides, run_mode))
        return compose(self, config_name=config_name, overrides=overrides, run_mode=run_mode, **rest)

    def loading(self: Any, default: ResultDefault, repo: Any) -> Any:
        loaded = load(self, default=default, repo=repo)
        others = [place for place in places if not f"{default.package}.".startswith(f"{place}.")]
        if any(OmegaConf.select(loaded.config, place) is not None for place in others):
            loaded = deepcopy(loaded)
            for place in others:
                remove(loaded.config, place)
        return loaded

    ConfigLoaderImpl._load_configuration_impl, ConfigLoaderImpl._load_single_config = composing, loading
    try:
        yield
    finally:
        ConfigLoaderImpl._load_configuration_impl, ConfigLoaderImpl._load_single_config = compose, load


def changed(loader: Any, config_name: str | None, overrides: Sequence[str], run_mode: RunMode) -> set[str]:
    """The places of groups within groups for which another option is typed than there would be."""
    typed = [word for word in overrides if inner(word)]
    if not typed:
        return set()
    usual = loader.compute_defaults_list(config_name, [w for w in overrides if w not in typed], run_mode)
    chosen = loader.compute_defaults_list(config_name, list(overrides), run_mode)
    before, now = (found.overrides.known_choices for found in (usual, chosen))
    return {place_of(group) for group in now if group in before and now[group] != before[group]}


def place_of(group: str) -> str:
    """Where the options of ``loss/time`` or ``loss/time@loss.end_time`` are in the configuration."""
    name, _, package = group.partition("@")
    return package.removeprefix("_global_.") or name.replace("/", ".")


def inner(word: str) -> bool:
    """Whether ``word`` chooses an option of a group within a group."""
    key, equals, _ = word.partition("=")
    group, _, package = key.partition("@")
    within = "/" in group or "." in package  # guidance@loss.teacher.guidance=... is within a loss
    return bool(equals) and within and not key.startswith(("+", "~", "hydra/"))


def remove(config: DictConfig, place: str) -> None:
    """Leave out the node at ``place``, where there is one."""
    *path, name = place.split(".")
    node = OmegaConf.select(config, ".".join(path)) if path else config
    if isinstance(node, DictConfig) and name in node:
        with open_dict(node):
            del node[name]
