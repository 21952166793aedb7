"""What can be given to a class or a function: names, annotations, which have no default."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from hydra._internal.utils import _locate

from oboro.base.lightning_trainer import TRAINER, narrowed


@dataclass(frozen=True)
class Signature:
    """``arguments`` are annotations by name; with ``others`` there may be arguments of any other name, too."""

    arguments: Mapping[str, Any]
    required: frozenset[str] = frozenset()
    others: bool = False


def located(target: str) -> Any:
    """The class or function of a ``_target_``. Raises ``ImportError`` where there is none."""
    try:
        return _locate(target)  # what Hydra will call; its public get_class writes to the log before it raises
    except Exception as error:
        raise ImportError(str(error.__cause__ or error)) from error


@cache
def signature(called: Callable[..., Any]) -> Signature:
    """The arguments of a class or a function. Arguments without an annotation are ``Any``."""
    try:
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):  # a class in C
        return Signature({}, others=True)
    hints = hints_of(called.__init__ if isinstance(called, type) else called)  # type: ignore[misc]
    arguments: dict[str, Any] = {}
    required: set[str] = set()
    others = False
    for p in parameters:
        hint = hints.get(p.name, Any)
        if p.kind is p.VAR_KEYWORD:
            others = get_origin(hint) is not Unpack
            arguments |= {} if others else of_typed_dict(get_args(hint)[0]).arguments
        elif p.kind is not p.VAR_POSITIONAL:
            arguments[p.name] = hint
            required |= {p.name} if p.default is p.empty else set()
    complete = Signature(arguments, frozenset(required), others)
    return replace(complete, arguments=narrowed(arguments)) if _name(called) in TRAINER else complete


def _name(called: Any) -> str:
    return f"{getattr(called, '__module__', '')}.{getattr(called, '__qualname__', '')}"


def of_typed_dict(settings: type) -> Signature:
    """The keys of a ``TypedDict`` as arguments."""
    hints = hints_of(settings)
    return Signature(hints, frozenset(settings.__required_keys__))  # type: ignore[attr-defined]


def hints_of(annotated: Any) -> dict[str, Any]:
    """Annotations with their metadata; none where they name what cannot be found."""
    try:
        return get_type_hints(annotated, include_extras=True)
    except Exception:  # annotations are code of anybody's
        return {}


def result_of(called: Callable[..., Any]) -> Any:
    """What a function says that it gives."""
    return hints_of(called).get("return", Any)
