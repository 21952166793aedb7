"""Which classes a configuration that came with a file may build."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_class

from oboro.base.errors import UserError

# Anything else could run code of the file's author.
TRUSTED = ("oboro.", "torch.optim.")


def refuse_foreign_targets(config: dict[str, Any], groups: Sequence[str], path: Path) -> None:
    """Raises ``UserError`` where the ``groups`` of a configuration hold more than plain values and classes of ours.

    Interpolations are refused too: they could make a ``_target_`` after the check, and ``train.py`` resolves them.
    """

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "_target_" in value and not is_trusted(value["_target_"]):
                raise UserError(
                    f"{path} wants to call {value['_target_']}, which is not a class of oboro; do not use this file."
                )
            for child in value.values():
                walk(child)
        elif isinstance(value, list):
            for child in value:
                walk(child)
        elif not isinstance(value, str | int | float | None) or (isinstance(value, str) and "${" in value):
            raise UserError(f"{path} has {value!r} in its configuration, no plain value; do not use this file.")

    for group in groups:
        walk(config.get(group, {}))


def is_trusted(target: Any) -> bool:
    """Whether ``target`` names a class defined in ``TRUSTED``, and not one that a module of it imports."""
    if not isinstance(target, str) or not target.startswith(TRUSTED):
        return False
    try:
        return get_class(target).__module__.startswith(TRUSTED)
    except Exception:  # no class, or no such name
        return False
