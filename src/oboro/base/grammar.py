"""Hydra's grammar of ``key=value``: texts in it, and what arguments stand for."""

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from oboro.base.errors import UserError

# What YAML 1.1 reads as true and false; Hydra's command line leaves most of it as text.
WORDS = {
    word: value
    for value, words in ((True, "true yes on"), (False, "false no off"))
    for lower in words.split()
    for word in (lower, lower.capitalize(), lower.upper())
}


def is_true(value: Any) -> bool:
    """Whether true is meant: ``yes`` is, and 5 is not."""
    return value is True or (isinstance(value, str) and WORDS.get(value) is True)


def quoted(text: str) -> str:
    """``text`` in quotes, so that a configuration holds ``text`` and nothing of it is an interpolation.

    Backslashes count before a quote and before ``${`` only, where each needs another.
    """
    mark = "'" if '"' in text else '"'
    escaped = re.sub(r"(\\*)(\$\{)", r"\1\1\\\2", text)
    escaped = re.sub(rf"(\\*){mark}", rf"\1\1\\{mark}", escaped)
    return mark + escaped + "\\" * (len(escaped) - len(escaped.rstrip("\\"))) + mark


def parsed(word: str) -> Override | None:
    """``key=value`` as Hydra reads it; None where its grammar does not."""
    try:
        return OverridesParser.create().parse_override(word)
    except Exception:  # whatever ANTLR or a function of the grammar trips over
        return None


def values(arguments: Sequence[str], key: str) -> list[Any]:
    """What ``key=...`` gives among ``arguments``, each value of a sweep."""
    typed: list[Any] = []
    for word in arguments:
        override = parsed(word) if word.lstrip("+").startswith(f"{key}=") else None
        if override is not None:
            sweep = override.value() if override.is_sweep_override() else None
            typed += list(sweep.list) if isinstance(sweep, ChoiceSweep) else [override.value()]
    return [plain(value) for value in typed]


def files(arguments: Sequence[str], key: str) -> list[str]:
    """The paths that ``key=...`` gives, without null. Raises ``UserError`` for an empty one, as of ``key=$UNSET``."""
    given = [str(value) for value in values(arguments, key) if value is not None]
    if "" in given:
        raise UserError(f"{key}= is empty; give a path after it, or leave {key} out.")
    return given


def plain(value: Any) -> Any:
    """A parsed value as the configuration will have it; an interpolation of it as it is written."""
    text = value.text if isinstance(value, QuotedString) else value
    try:
        held: Any = OmegaConf.to_container(OmegaConf.create({"value": text}), resolve=True)
        return held["value"]
    except OmegaConfBaseException:
        return text
