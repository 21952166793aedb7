"""JSON as its standard has it: without NaN and infinity."""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from oboro.base.secret import HIDDEN, hide, is_secret

NOT_FINITE = "not_finite"
DEPTH = 100  # levels of a text that is read


def json_text(value: Any, **settings: Any) -> str:
    """``value`` as JSON; ``settings`` are those of ``json.dumps``.

    A number that is NaN or infinite becomes null. An object then gets one more entry that says where and what it was,
    ``"not_finite": {"values.fd": "nan"}``. Secrets are hidden (``oboro.base.secret``).
    """
    odd: dict[str, str] = {}
    plain = _finite(value, "", odd)
    if odd and isinstance(plain, dict):
        plain[NOT_FINITE] = odd
    return json.dumps(plain, allow_nan=False, **settings)


def _finite(value: Any, place: str, odd: dict[str, str]) -> Any:
    if isinstance(value, float) and not isfinite(value):
        odd[place] = str(float(value))
        return None
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, Mapping):
        return {
            key: HIDDEN
            if is_secret(key) and isinstance(child, str) and child
            else _finite(child, f"{place}.{key}".lstrip("."), odd)
            for key, child in value.items()
        }
    if isinstance(value, list | tuple):
        return [_finite(child, f"{place}.{i}".lstrip("."), odd) for i, child in enumerate(value)]
    return value


def parsed(text: str | bytes) -> Any:
    """What a JSON text holds. Raises ``ValueError`` for anything else, and for more than ``DEPTH`` levels."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"more than {DEPTH} levels") from error
    level = [value]
    for _ in range(DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return value
    raise ValueError(f"more than {DEPTH} levels")


def read_json(text: str | bytes) -> Any:
    """The inverse of ``json_text``: numbers that were not finite are what they were. Raises ``ValueError``."""
    value = parsed(text)
    if isinstance(value, dict) and isinstance(value.get(NOT_FINITE), dict):
        for place, number in value.pop(NOT_FINITE).items():
            if not isinstance(number, str):
                raise ValueError(f"{NOT_FINITE} is not what was written")
            _put_back(value, place, float(number))
    return value


def _put_back(node: Any, place: str, number: float) -> None:
    """``number`` in the ``place`` of ``node``; keys may have dots themselves."""
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if place == str(key) and child is None:
            node[key] = number
        elif place.startswith(f"{key}."):
            _put_back(child, place.removeprefix(f"{key}."), number)
