"""What an object was set to, as plain values for JSON, and as text for printing."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from oboro.base.secret import without_secrets

Settings = Mapping[str, Any]


def settings(instance: object) -> dict[str, Any]:
    """``{"name": "Heun", "steps": 18, "grid": {"name": "Uniform"}}``: class and public attributes of a small object.

    Attributes that are objects themselves become settings too; of a network its class and its own attributes, without
    layers and weights. What JSON cannot hold is written as text, infinity as "inf".
    """
    values = {k: _plain(v) for k, v in vars(instance).items() if not k.startswith("_") and k != "training"}
    return {"name": type(instance).__name__, **without_secrets(values)}


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [_plain(v) for v in value]
    return settings(value) if hasattr(value, "__dict__") else str(value)


def settings_text(known: Settings, separator: str = ", ") -> str:
    """``Heun(steps=18, grid=Uniform)``; inside of parts without commas, ``grid=Karras(rho=7.0 sigma_min=0.002)``."""
    pairs = (f"{k}={_value_text(v)}" for k, v in known.items() if k != "name")
    return f"{known['name']}({separator.join(pairs)})"


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping) and "name" in value:
        return value["name"] if len(value) == 1 else settings_text(value, separator=" ")
    return str(value)
