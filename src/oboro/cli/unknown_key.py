"""What is said of ``key=value`` where the composed configuration has no such key."""

import ast
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from oboro.base.command import as_typed
from oboro.cli.options import CONF, SEVERAL, folders, meant, options

MANY = 25  # keys that one line has room for


def composed() -> DictConfig:
    """The configuration with the options that the command line chooses, without its values."""
    words = get_args_parser().parse_known_args(sys.argv[1:])[0].overrides
    chosen = [w for w in words if any((folder / w.lstrip("+").partition("=")[0]).is_dir() for folder in folders())]
    own = [f"hydra.searchpath=[{','.join(map(str, folders()[:-1]))}]"]
    loader = ConfigLoaderImpl(config_search_path=create_config_search_path(str(CONF)))
    config = loader.load_configuration(Path(sys.argv[0]).stem, [*chosen, *own], RunMode.RUN)
    OmegaConf.set_struct(config, False)
    return config


def explain_key(key: str) -> str:
    """One line for a ``key`` that is not there: what its node has, or why there is no such node."""
    everything = f"`{as_typed(sys.argv[0])} --cfg {'hydra' if key.startswith('hydra.') else 'job'}` lists them"
    try:
        config = composed()
    except Exception:  # the options cannot be composed either, which another message is about
        return f"there is no key {key}; {everything}."
    parts = key.split(".")
    depth = next(k for k in reversed(range(len(parts))) if isinstance(node_at(config, parts[:k]), DictConfig))
    node, place, name = node_at(config, parts[:depth]), ".".join(parts[:depth]), parts[depth]
    rest = "".join(f".{part}" for part in parts[depth + 1 :])
    keys = [str(k) for k in node if k not in ("_target_", "hydra")]
    if name in keys:
        if not rest and isinstance(mapping := node_at(config, parts), DictConfig):
            return f"{key} has {'|'.join(map(str, mapping))} and nothing else; add others with '+{key}.NAME=...'."
        return f"there is no key {key}; {key.removesuffix(rest)} is one value."
    if place in SEVERAL and name in options(place):
        return f"there is no key {key}, since {place} has no {name}; add {name} to {place}=[...], or leave {key} out."
    if not place:
        groups = {path.name for folder in folders() for path in folder.iterdir() if path.is_dir()}
        if name in groups:
            return f"there is no key {key}, since the run has no {name}; leave it out."
        inner = [f"{group}.{name}" for group in keys if node_at(config, [group, name]) is not None]
        hint = f" Did you mean {' or '.join(inner)}?" if inner and not rest else ""
        return f"there is no key {key}; {everything}.{hint or meant(name, sorted({*keys, *groups}), rest=rest)}"
    target = node.get("_target_") if not rest else None
    if target and name in parameters(target):
        return f"{key} is not among the values of {place}, and {target} takes it; add it with +{key}=..."
    if not keys:
        return f"there is no key {key}; {label(config, place)} has none."
    has = f"{label(config, place)} has {'|'.join(keys)}" if len(keys) <= MANY else everything
    return f"there is no key {key}; {has}.{meant(name, keys, f'{place}.', rest)}"


def node_at(config: DictConfig, parts: list[str]) -> Any:
    """The node at a place of the configuration as it is written, None where there is none."""
    node: Any = config
    for part in parts:
        node = node._get_node(part) if isinstance(node, DictConfig) and not node._is_none() else None
    return node


def label(config: DictConfig, place: str) -> str:
    """``model=ldm_unet`` where an option was chosen for ``place``."""
    choice = config.hydra.runtime.choices.get(place.replace(".", "/"))
    return f"{place}={choice}" if isinstance(choice, str) else place


def parameters(target: str) -> set[str]:
    """The names that the constructor of the class ``target`` takes, read from its file: importing it takes seconds."""
    package, _, name = target.rpartition(".")
    file = source(package)
    if file is None:
        return set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
            return parameters(f"{node.module}.{name}")
        if isinstance(node, ast.ClassDef) and node.name == name:
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and member.name == "__init__":
                    return {a.arg for a in (*member.args.args, *member.args.kwonlyargs)} - {"self"}
    return set()


def source(module: str) -> Path | None:
    """The file of a module, found without importing its packages."""
    search: Any = None
    for part in module.split("."):
        spec = PathFinder.find_spec(part, search)
        if spec is None:
            return None
        search = spec.submodule_search_locations
    return Path(spec.origin) if spec.origin else None
