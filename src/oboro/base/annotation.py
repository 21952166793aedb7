"""Plain values and annotations: whether one is of the other, and what to say where it is not."""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from math import isinf, isnan
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Required, TypeVar, Union, get_args, get_origin

import torch
from annotated_types import BaseMetadata, Ge, GroupedMetadata, Gt, Le, Lt, MaxLen, MinLen, Predicate
from pydantic import BeforeValidator, Field, PlainValidator, Strict, TypeAdapter, ValidationError, WrapValidator

from oboro.base.grammar import WORDS
from oboro.base.ranges import Infinite

LARGEST = 2**63 - 1
FREE = (torch.device, torch.dtype, Enum)  # made of text by those who use them


def fitted(annotation: Any, value: Any) -> Any:
    """``value`` as ``annotation`` has it: whole floats become integers where integers are meant, and YAML's words true
    or false. Anything else stays as it is. Raises ``ValueError`` where it does not fit."""
    try:
        return _converted(value, _adapter(annotation).validate_python(value))
    except ValidationError as error:
        raise ValueError(f"must be {words(annotation)}") from error


def _converted(value: Any, read: Any) -> Any:
    """``value`` with the leaves of which ``read`` has made something else."""
    if isinstance(value, list) and isinstance(read, Sequence) and len(value) == len(read):
        return [_converted(old, new) for old, new in zip(value, read, strict=True)]
    if isinstance(value, dict) and isinstance(read, Mapping):
        return {key: _converted(old, read[key]) for key, old in value.items()}
    became = (isinstance(value, float) and type(read) is int) or (isinstance(value, str) and type(read) is bool)
    return read if became else value


@cache
def _hashable_adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_strict(annotation))


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return _hashable_adapter(annotation)
    except TypeError:  # metadata of an own class that has no hash
        return TypeAdapter(_strict(annotation))


def bare(annotation: Any) -> tuple[Any, list[Any]]:
    """What is annotated, without aliases and wrappers, and its metadata with groups taken apart."""
    metadata: list[Any] = []
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *more = get_args(annotation)
            metadata = [m for one in more for m in (one if isinstance(one, GroupedMetadata) else [one])] + metadata
        elif origin in (Required, NotRequired):
            (annotation,) = get_args(annotation)
        elif hasattr(annotation, "__value__"):  # type X = ...
            annotation = annotation.__value__
        elif hasattr(annotation, "__supertype__"):  # NewType
            annotation = annotation.__supertype__
        else:
            return annotation, metadata


def members(annotation: Any) -> Iterator[Any]:
    """The members of a union, with their metadata; of anything else itself."""
    inner, metadata = bare(annotation)
    if get_origin(inner) in (Union, types.UnionType):
        for member in get_args(inner):
            yield from members(member)
    else:
        yield _annotated(inner, metadata)


def _annotated(inner: Any, metadata: list[Any]) -> Any:
    return Annotated[(inner, *metadata)] if metadata else inner


def is_free(inner: Any) -> bool:
    """Whether an annotation says nothing that a plain value could be held against."""
    origin = get_origin(inner) or inner
    if origin is Any or origin is type or isinstance(inner, TypeVar | str) or origin is object:
        return True
    return origin is Callable or (isinstance(origin, type) and issubclass(origin, FREE))


def is_sequence(inner: Any) -> bool:
    origin = get_origin(inner) or inner
    return isinstance(origin, type) and origin is not str and issubclass(origin, set | frozenset | Sequence)


def is_mapping(inner: Any) -> bool:
    origin = get_origin(inner) or inner
    return isinstance(origin, type) and issubclass(origin, Mapping)


def is_class(inner: Any) -> bool:
    """Whether objects are meant, which a configuration builds with a node."""
    plain = (int, float, bool, str, bytes, type(None), Path)
    return isinstance(inner, type) and not (is_free(inner) or is_sequence(inner) or is_mapping(inner) or inner in plain)


def _strict(annotation: Any) -> Any:
    """``annotation`` in pydantic's words: nothing is made of something else but what ``fitted`` says."""
    inner, metadata = bare(annotation)
    limits = [m for m in metadata if isinstance(m, BaseMetadata)]
    if get_origin(inner) in (Union, types.UnionType):
        return _union(get_args(inner), limits)
    if inner is int:
        return Annotated[int, Strict(), Ge(-LARGEST), Le(LARGEST), *limits, BeforeValidator(_whole)]
    if inner is float:
        endless = any(isinstance(m, Infinite) or m is Infinite for m in metadata)
        return Annotated[float, Strict(), *limits, WrapValidator(_extended if endless else _finite)]
    if inner is bool:
        return Annotated[bool, Strict(), BeforeValidator(_word)]
    if inner is str:
        return Annotated[str, Strict(), *limits]
    if inner is None or inner is type(None):
        return None
    if get_origin(inner) is Literal:
        return Annotated[inner, BeforeValidator(_numbers_apart)]
    if inner is Path:
        return Annotated[str, Strict()]
    if is_free(inner):
        return Any
    if is_mapping(inner):
        _, value = get_args(inner) or (str, Any)
        return _annotated(dict[str, _strict(value)], limits)  # type: ignore[misc]
    if is_sequence(inner):
        return _annotated(_sequence(inner), limits)
    return Annotated[Any, PlainValidator(_no_object)]


def _union(each: Sequence[Any], limits: list[Any]) -> Any:
    """The first that fits counts."""
    some = list(dict.fromkeys(_strict(member) for member in each if member is not type(None)))
    inner = some[0] if len(some) == 1 else Annotated[Union[tuple(some)], Field(union_mode="left_to_right")]  # noqa: UP007
    return _annotated(Union[inner, None] if type(None) in each else inner, limits)  # noqa: UP007


def _sequence(inner: Any) -> Any:
    origin, args = get_origin(inner) or inner, get_args(inner)
    if origin is tuple and args and args[-1] is not ...:
        return tuple[tuple(_strict(arg) for arg in args)]  # type: ignore[misc]
    return list[_strict(args[0]) if args else Any]  # type: ignore[misc]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _numbers_apart(value: Any) -> Any:
    """True is equal to 1, and is no choice of numbers; 3.0 is one of whole numbers."""
    if isinstance(value, bool):
        raise ValueError
    return _whole(value)


def _word(value: Any) -> Any:
    return WORDS.get(value, value) if isinstance(value, str) else value


def _extended(value: Any, handler: Any) -> Any:
    if isinstance(value, bool) or isnan(handler(value)):
        raise ValueError
    return value


def _finite(value: Any, handler: Any) -> Any:
    if isinf(_extended(value, handler)):
        raise ValueError
    return value


def _no_object(value: Any) -> Any:
    raise ValueError


def words(annotation: Any) -> str:
    """``a whole number, 1 or more, or null``: what a value has to be."""
    each = [member for member in members(annotation) if not _useless(member, annotation)]
    choices = [c for member in each if get_origin(inner := bare(member)[0]) is Literal for c in get_args(inner)]
    named = [member for member in each if get_origin(bare(member)[0]) is not Literal]
    if choices:
        named.insert(0, Literal[tuple(choices)])
    parts = list(dict.fromkeys(_words(member) for member in named)) or ["a value"]
    return (", or " if any("," in part for part in parts) else " or ").join(parts)


def _useless(member: Any, annotation: Any) -> bool:
    """A tensor beside a number cannot be written, an integer beside a number is one."""
    inner, others = bare(member)[0], [bare(m)[0] for m in members(annotation)]
    if inner is int:
        return float in others and not bare(member)[1]
    return isinstance(inner, type) and issubclass(inner, torch.Tensor) and len(others) > 1


def _words(annotation: Any) -> str:
    inner, metadata = bare(annotation)
    if described := next((m.func.__doc__ for m in metadata if isinstance(m, Predicate)), None):
        return described
    if inner in (int, float):
        endless = any(isinstance(m, Infinite) or m is Infinite for m in metadata)
        name = "a whole number" if inner is int else "a number"
        return f"{name}{_range(metadata)}{', or .inf' if endless else ''}"
    named = {bool: "true or false", str: "text", Path: "a path", None: "null", type(None): "null"}
    if inner in named:
        return named[inner]
    if get_origin(inner) is Literal:
        choices = list(dict.fromkeys("null" if c is None else str(c) for c in get_args(inner)))
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if is_mapping(inner) or is_sequence(inner):
        name = "mapping {name: value}" if is_mapping(inner) else "list"
        value = (get_args(inner) or (Any,))[-1 if is_mapping(inner) else 0]
        each = "" if is_free(bare(value)[0]) else f", each {words(value)}"
        return f"a {name} of {_length(metadata)}values{each}"
    if isinstance(inner, type):
        return f"{article(inner.__name__)} (a node with _target_)"
    return "a value of another type"


def article(name: str) -> str:
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


def _range(metadata: list[Any]) -> str:
    """``, 1 or more`` and the like."""
    low = next((m for m in metadata if isinstance(m, Ge | Gt)), None)
    high = next((m for m in metadata if isinstance(m, Le | Lt)), None)
    if isinstance(low, Ge) and isinstance(high, Le):
        return f" from {_number(low.ge)} to {_number(high.le)}"
    below = f"{_number(high.le)} or less" if isinstance(high, Le) else f"below {_number(high.lt)}" if high else ""
    above = f"{_number(low.ge)} or more" if isinstance(low, Ge) else f"above {_number(low.gt)}" if low else ""
    both = " and ".join(part for part in (above, below) if part)
    return f", {both}" if both[:1].isdigit() or both[:1] == "-" else f" {both}" if both else ""


def _length(metadata: list[Any]) -> str:
    """``1 to 16 `` and the like."""
    least = next((m.min_length for m in metadata if isinstance(m, MinLen)), 0)
    most = next((m.max_length for m in metadata if isinstance(m, MaxLen)), None)
    if most is not None:
        return f"{most:,} " if least == most else f"{least} to {most:,} " if least else f"at most {most:,} "
    return f"{least} or more " if least else ""


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
