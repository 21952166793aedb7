"""JSON as its standard has it: without NaN and infinity."""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

NOT_FINITE = "not_finite"


def json_text(value: Any, **settings: Any) -> str:
    """``value`` as JSON; ``settings`` are those of ``json.dumps``.

    A number that is NaN or infinite becomes null. An object then gets one more entry that says where and what it was,
    ``"not_finite": {"values.fd": "nan"}``.
    """
    found: dict[str, str] = {}
    plain = _finite(value, "", found)
    if found and isinstance(plain, dict):
        plain[NOT_FINITE] = found
    return json.dumps(plain, allow_nan=False, **settings)


def _finite(value: Any, place: str, found: dict[str, str]) -> Any:
    if isinstance(value, float) and not isfinite(value):
        found[place] = str(float(value))
        return None
    if isinstance(value, Mapping):
        return {key: _finite(child, f"{place}.{key}".lstrip("."), found) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child, f"{place}.{i}".lstrip("."), found) for i, child in enumerate(value)]
    return value


def read_json(text: str) -> Any:
    """The inverse of ``json_text``: numbers that were not finite are what they were. Raises ``ValueError``."""
    value = json.loads(text)
    if isinstance(value, dict) and isinstance(value.get(NOT_FINITE), dict):
        for place, number in value.pop(NOT_FINITE).items():
            _put_back(value, place, float(number))
    return value


def _put_back(node: Any, place: str, number: float) -> None:
    """``number`` in the ``place`` of ``node``; keys may have dots themselves."""
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if place == str(key) and child is None:
            node[key] = number
        elif place.startswith(f"{key}."):
            _put_back(child, place.removeprefix(f"{key}."), number)
