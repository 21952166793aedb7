"""Hydra composes hundreds of configurations in one process of tests: what it does alike each time, it does once.

Nothing that it composes is another one for that. ``tests/cli/test_composed_once.py`` holds it against Hydra.
"""

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import yaml
from hydra._internal import defaults_list
from hydra._internal.core_plugins import file_config_source
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

create_interpolation_map: Callable[..., Any] = defaults_list._create_interpolation_map


@cache
def parsed(text: str) -> Any:
    return yaml.load(text, Loader=get_yaml_loader())


def load(file: Any) -> Any:
    """``OmegaConf.load`` of an option file, its text parsed once."""
    value = parsed(file.read())
    return OmegaConf.create({} if value is None else value)


def map_where_needed(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
    """What names in a list of defaults are interpolated from: where there is no ``${`` it is not read."""
    if "${" not in f"{defaults}{overrides.override_choices}":
        return OmegaConf.create({"defaults": []})
    return create_interpolation_map(overrides, defaults, self_added)


def once() -> None:
    file_config_source.OmegaConf = SimpleNamespace(load=load)  # type: ignore[misc]
    defaults_list._create_interpolation_map = map_where_needed


def as_usual() -> None:
    file_config_source.OmegaConf = OmegaConf  # type: ignore[misc]
    defaults_list._create_interpolation_map = create_interpolation_map
