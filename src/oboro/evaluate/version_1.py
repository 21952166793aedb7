"""Results as oboro first wrote them, with settings as text and other keys: read here and nowhere else."""

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

LIKELIHOOD = re.compile(r"(.*), (\d+) Runge-Kutta steps, (\d+) probes, seed (\d+), held-out images")


def renewed(result: Mapping[str, Any]) -> dict[str, Any]:
    """An ``evaluation.json`` of version 1 as it would be written today, with the same digest."""
    protocol = {
        k: settings_of(v) if k in ("schedule", "sampler", "guidance") else v for k, v in result["protocol"].items()
    }
    if "ema" in protocol:
        std = result.get("ema_std") or std_of(protocol["ema"])
        protocol["ema"] = {"name": protocol["ema"], "std": std}
    if "codec" in protocol:
        name, _, digest = protocol["codec"].partition("@")
        protocol["codec"] = {"name": name, "digest": digest}
    others = {k: v for k, v in result.items() if k not in ("judged", "ema_std")}
    return {
        **others,
        "version": 2,
        "protocol": protocol,
        "metrics": {name: renewed_value(value) for name, value in result["judged"].items()},
        "likelihood": {name: renewed_value(value) for name, value in result.get("likelihood", {}).items()},
    }


def renewed_value(value: Mapping[str, Any]) -> dict[str, Any]:
    names = {"how": "settings", "doubt": "warning"}
    return {names.get(k, k): settings_of(v) if k == "how" else v for k, v in value.items()}


def std_of(ema: str) -> float | None:
    """The length in the name of an average: 0.05 of ``std005``, ``std0050``, ``std_0.05`` and ``std=0.05``."""
    match = re.fullmatch(r"std[_=]?0\.?(\d+)", ema)
    return float(f"0.{match[1]}") if match else None


def settings_of(text: str, separator: str = ", ") -> dict[str, Any]:
    """``DDIM(steps=5, grid=Karras(rho=7.0))`` as ``{"name": "DDIM", "steps": 5, "grid": {"name": "Karras", …}}``."""
    if match := LIKELIHOOD.fullmatch(text):
        name, *numbers = match.groups()
        return {"name": name, **dict(zip(("steps", "probes", "seed"), map(int, numbers), strict=True))}
    name, _, inside = text.removesuffix(")").partition("(")
    pairs = (pair.split("=", 1) for pair in split(inside, separator))
    return {"name": name, **{k: value_of(v) for k, v in pairs if k != "training"}}


def value_of(text: str) -> Any:
    """A number, a list or a mapping as Python writes it; the settings of a class, which begins with a capital; text."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return settings_of(text, separator=" ") if re.fullmatch(r"[A-Z]\w*(\(.*\))?", text) else text


def split(text: str, separator: str) -> Iterator[str]:
    """``text`` at every ``separator`` outside of brackets."""
    depth = start = 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and text.startswith(separator, i):
            yield text[start:i]
            start = i + len(separator)
    if text[start:]:
        yield text[start:]
