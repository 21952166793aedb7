"""Arguments that are paths on this machine: a configuration that is kept has them absolute.

A constructor says so by the annotation of its argument: ``root: LocalPath``, ``path: PathOrName``, also in a
``TypedDict`` of keyword arguments and in ``LocalPath | None``.
"""

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args

from oboro.base.signature import located, signature


class Place(Enum):
    """What the text of a path may be: always a path, or a name of something elsewhere where no such path exists."""

    LOCAL = "local"
    LOCAL_OR_NAME = "local or name"


LocalPath = Annotated[str, Place.LOCAL]
PathOrName = Annotated[str, Place.LOCAL_OR_NAME]  # of a model or a data set on the Hugging Face hub

_ELSEWHERE = re.compile(r"[A-Za-z][\w+.-]*://")  # an address
_ALTERNATIVES = re.compile(r"\{+[/~]")  # a pattern of braces whose alternatives are absolute


def absolute(path: str, place: Place) -> str:
    """``path`` as it is found from every folder; a name or an address stays as it is."""
    if _ELSEWHERE.match(path) or _ALTERNATIVES.match(path):
        return path
    expanded = Path(path).expanduser()
    if place is Place.LOCAL_OR_NAME and not _is_path(path, expanded):
        return path
    return str(expanded.absolute())


def _is_path(path: str, expanded: Path) -> bool:
    """Whether what could be a name is a path: it is written as one, or there is a file of it, or of its pattern."""
    written = path.startswith(("/", "~", "./", "../")) or path in (".", "..")
    if written or expanded.exists():
        return True
    return any(c in path for c in "*?[") and next(iter(Path().glob(path)), None) is not None


def with_absolute_paths(node: Any) -> Any:
    """A configuration in which every argument that its class annotates as a path is absolute."""
    if isinstance(node, list):
        return [with_absolute_paths(child) for child in node]
    if not isinstance(node, dict):
        return node
    places = places_of(node["_target_"]) if isinstance(node.get("_target_"), str) else {}
    return {
        key: _placed(child, places[key]) if key in places else with_absolute_paths(child) for key, child in node.items()
    }


def _placed(value: Any, place: Place) -> Any:
    if isinstance(value, list):
        return [_placed(child, place) for child in value]
    if isinstance(value, dict) and "_target_" not in value:  # paths by name
        return {key: _placed(child, place) for key, child in value.items()}
    return absolute(value, place) if isinstance(value, str) else with_absolute_paths(value)


def places_of(target: str) -> dict[str, Place]:
    """The arguments of a class or function that are paths, those that it hands on to the classes above it too; none of
    what cannot be imported, which fails when built."""
    try:
        named = located(target)
    except ImportError:
        return {}
    constructors = (
        [vars(base)["__init__"] for base in reversed(named.__mro__) if "__init__" in vars(base)]
        if (isinstance(named, type))
        else [named]
    )
    arguments = [pair for call in constructors for pair in signature(call).arguments.items()]
    return {name: place for name, hint in arguments if (place := _place_in(hint)) is not None}


def _place_in(hint: Any) -> Place | None:
    """The place that an annotation names, in itself or in a part of it."""
    named = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Place)), None)
    return named or next((place for part in get_args(hint) if (place := _place_in(part)) is not None), None)
