"""Stored configurations are plain values: nothing in them is a word to Hydra, to OmegaConf or to ``instantiate``."""

import re
from typing import Any

from oboro.base.errors import UserError

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*|_target_")
RESERVED = ("defaults", "hydra")
DEPTH = 40  # levels of a configuration; ours have about ten


def plain(node: Any, path: object) -> Any:
    """A copy of ``node``, of dicts, lists and values alone, which the file at ``path`` has as its configuration.

    Raises ``UserError`` for anything that Hydra or OmegaConf could read as more than a value: ``defaults``, ``hydra``,
    keys of other characters or that begin with an underscore (``_target_`` apart), interpolations.
    """
    try:
        return copied(node)
    except ValueError as error:
        raise UserError(f"{path} has {error} in its configuration; do not use this file.") from error


def check_plain(node: Any) -> None:
    """Raises ``UserError`` where no checkpoint of a run with this configuration could be read: before it, not after."""
    try:
        copied(node)
    except ValueError as error:
        raise UserError(
            f"the run has {error}, and no checkpoint may; use names of letters, digits, _ and -, and plain values."
        ) from error


def copied(node: Any, depth: int = 0) -> Any:
    """Raises ``ValueError`` that says what is not plain."""
    if depth > DEPTH:
        raise ValueError(f"more than {DEPTH} levels")
    if isinstance(node, dict):
        for key in node:
            if not isinstance(key, str) or not KEY.fullmatch(key) or key in RESERVED:
                raise ValueError(f"the key {key!r}, no plain name,")
        return {key: copied(child, depth + 1) for key, child in node.items()}
    if isinstance(node, list):
        return [copied(child, depth + 1) for child in node]
    if not isinstance(node, str | bool | int | float | None) or (isinstance(node, str) and "${" in node):
        raise ValueError(f"{node!r}, no plain value,")
    return node
