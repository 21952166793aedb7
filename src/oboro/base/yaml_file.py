"""YAML files that others wrote, before a library makes values of them."""

from pathlib import Path

import yaml

PLAIN = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map"))
LARGEST, LEVELS = 1_000_000, 40  # bytes and levels of a file at most


def check_yaml(path: Path, references: bool = True) -> None:
    """Raises ``ValueError`` with a clause for a file that is no YAML of plain values, that has more bytes or levels
    than settings have, or references in what is referred to: a few lines of these make any number of values. Without
    ``references`` there may be none. Raises ``OSError`` where it cannot be read."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"more than {LARGEST:,} bytes")
    named: list[bool] = []  # of each collection that is open, whether it can be referred to
    try:
        for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) and (any(named) or not references):
                raise ValueError("references in references")
            if isinstance(event, yaml.CollectionStartEvent):
                named.append(event.anchor is not None)
            elif isinstance(event, yaml.CollectionEndEvent):
                named.pop()
            if len(named) > LEVELS:
                raise ValueError(f"more than {LEVELS} levels")
            tag = getattr(event, "tag", None) or ""
            if tag not in ("", "!", *PLAIN):
                raise ValueError(f"the tag {tag}, which builds an object")
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except (yaml.YAMLError, RecursionError) as error:
        problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{problem or 'it is no YAML'}{where}") from error
