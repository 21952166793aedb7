"""What ``--help`` prints: the values at the root with what they mean, and the groups with their options."""

import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from oboro.base.command import as_typed
from oboro.cli.options import CONF, folders, options

WIDTH = 118
VALUE = re.compile(r"(\w+): (.*?)(?:\s+# (.*))?")  # a line of the option file: key, value, meaning


def overview(name: str) -> str:
    """The help of the command ``name``, from ``conf/<name>.yaml`` and the folders of options."""
    text, command = (CONF / f"{name}.yaml").read_text(encoding="utf-8"), as_typed(sys.argv[0])
    groups = groups_of(yaml.safe_load(text)["defaults"])
    lines = [match for line in text.splitlines() if (match := VALUE.fullmatch(line)) and match[1] not in groups]
    values = [(f"{line[1]}={line[2].replace('???', '(needed)')}", line[3] or "") for line in lines]
    return "\n".join(
        [
            f"usage: {command} [group=option ...] [key=value ...]",
            "",
            "values",
            *table(values, 34),
            "",
            "groups and their options; a value of one is group.key=value",
            *table([(group, " ".join(options(group))) for group in groups], 20),
            "",
            f"`{command} --cfg job` prints the whole configuration, with choices and values if they are named;",
            f"`{command} --cfg job --package sampler` a part of it; `{command} --hydra-help` lists flags, such as -m.",
        ]
    )


def groups_of(defaults: Sequence[Any]) -> list[str]:
    """The groups of a command, with those within: all that there are where it composes a task."""
    chosen = [key for row in defaults if isinstance(row, dict) for key in row if " " not in key]
    every = sorted({path.parent.relative_to(f).as_posix() for f in folders() for path in Path(f).rglob("*/*.yaml")})
    outer = {group.partition("/")[0] for group in every} - {"hydra"} if "task" in chosen else {*chosen}
    return [group for group in every if group.partition("/")[0] in outer]


def table(rows: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Two columns, the second wrapped."""
    lines = []
    for first, second in rows:
        wrapped = textwrap.wrap(second, WIDTH - width - 2) or [""]
        if len(first) >= width:
            lines.append(f"  {first}")
            first = ""
        names = [first, *[""] * (len(wrapped) - 1)]
        lines += [f"  {name:<{width}}{part}".rstrip() for name, part in zip(names, wrapped, strict=True)]
    return lines
