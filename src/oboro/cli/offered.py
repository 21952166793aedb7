"""What a checkpoint holds as options of Hydra.

Each option is built anew, key by key, of plain values; its defaults list is ours. So nothing in a file is a word to
Hydra: no ``defaults``, no ``hydra``, no package, no interpolation.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hydra.core.config_store import ConfigStore

from oboro.cli.options import folders
from oboro.restore.plain import plain

OPTION = "from_checkpoint"


def is_group(name: str) -> bool:
    """Whether options of ``name``, such as loss/time, lie in a folder."""
    return bool(name) and any((folder / name).is_dir() for folder in folders())


def groups_within(group: str) -> list[str]:
    """What is chosen by itself within a group: time, weighting, … within loss."""
    return sorted({p.name for folder in folders() for p in (folder / group).glob("*") if p.is_dir()})


def offer(
    group: str,
    node: dict[str, Any],
    path: object,
    defaults: Sequence[dict[str, str]] = (),
    following: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Make ``node`` of the file ``path`` the option ``from_checkpoint`` of ``group``, and its parts those of the groups
    within it; ``defaults`` are further entries of its defaults list, and ``following`` are values of ours that replace
    those of the file. An empty node offers every group within."""
    within = [part for part in groups_within(group) if not node or isinstance(node.get(part), dict)]
    for part in within:
        store(f"{group}/{part}", [], plain(node.get(part, {}), path))
    rest = plain({key: value for key, value in node.items() if key not in within}, path)
    store(group, [*({part: OPTION} for part in within), *defaults], rest | dict(following))


def store(group: str, defaults: Sequence[Any], node: dict[str, Any], package: str | None = None) -> None:
    """Register ``node``, which has to be ``plain``."""
    content = {"defaults": [*defaults, "_self_"], **node} if defaults else node
    ConfigStore.instance().store(OPTION, content, group=group, package=package)


def elsewhere(group: str) -> dict[str, str]:
    """An entry that puts ``group`` at the root, wherever the option is that has it in its defaults list."""
    return {f"/{group}@_global_.{group}": OPTION}
