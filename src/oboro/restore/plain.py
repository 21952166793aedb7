"""Stored configurations are plain values: nothing in them is a word to Hydra, to OmegaConf or to ``instantiate``."""

import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from oboro.base.errors import UserError

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*|_target_")
RESERVED = ("defaults", "hydra")
DEPTH = 40  # levels of a configuration; ours have about ten
VALUES = 50_000  # in all
TEXT = 1_000_000  # characters in all
LARGEST = 2**63
SHOWN = 60  # characters of what is shown of a value


def plain(node: Any, path: object) -> Any:
    """A copy of ``node``, of dicts, lists and values alone, which the file at ``path`` has as its configuration.

    Raises ``UserError`` for anything that Hydra or OmegaConf could read as more than a value: ``defaults``, ``hydra``,
    keys of other characters or that begin with an underscore (``_target_`` apart), interpolations; and for more values,
    characters, levels or digits than a configuration has.
    """
    if (problem := next(problems(node), None)) is not None:
        raise UserError(f"{path} has {problem} in its configuration; do not use this file.")
    return deepcopy(node)


def check_plain(node: Any) -> None:
    """Raises ``UserError`` where no checkpoint of a run with this configuration could be read: before it, not after."""
    if (problem := next(problems(node), None)) is not None:
        raise UserError(
            f"the run has {problem}, and no checkpoint may; use names of letters, digits, _ and -, and plain values."
        )


def problems(config: Any) -> Iterator[str]:
    """What is not plain, or is too much."""
    count = length = 0
    waiting = [(config, 0)]
    while waiting:
        node, depth = waiting.pop()
        count, length = count + 1, length + (len(node) if type(node) is str else 0)
        if count > VALUES or length > TEXT or depth > DEPTH:
            yield f"more than {VALUES:,} values, {TEXT:,} characters or {DEPTH} levels"
            return
        if type(node) is dict:
            for key in node:
                if type(key) is not str or not KEY.fullmatch(key) or key in RESERVED:
                    yield f"the key {shown(key)}, no plain name,"
            if type(node.get("_target_", "")) is not str:
                yield f"{shown(node['_target_'])}, no name of a class,"
            waiting += [(child, depth + 1) for child in node.values()]
        elif type(node) is list:
            waiting += [(child, depth + 1) for child in node]
        elif type(node) not in (str, bool, int, float, type(None)) or (type(node) is str and has_meaning(node)):
            yield f"{shown(node)}, no plain value,"
        elif type(node) is int and abs(node) >= LARGEST:
            yield "a number of more than 64 bits"


def has_meaning(text: str) -> bool:
    """Whether OmegaConf reads a text as more than itself: a reference, or a value that is missing."""
    return "${" in text


def shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
