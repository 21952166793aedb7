"""What a checkpoint keeps of its run's trainer, callbacks and loggers, and what of that a file may build."""

from collections.abc import Iterator
from typing import Any

import lightning
from hydra._internal.utils import _locate
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from oboro.base.errors import UserError
from oboro.restore.trust import can_be_trusted, trusted_packages

LOOKED_AT_BY_CALLBACKS = ("metrics", "extractor")  # arguments of callbacks that are groups of the run
BESIDE = ("trainer", "callbacks", "logger")
LEFT_OUT = "left_out"  # of a stored configuration: the nodes of BESIDE that are not kept, by name
TRAINER = "lightning.pytorch.Trainer"
KINDS = {"callbacks": lightning.Callback, "logger": Logger}
# Of Lightning: those that write files and call nobody.
LOGGERS = (TensorBoardLogger, CSVLogger)


def kept(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` without those callbacks, loggers and parts of the trainer that no file may build, which ``left_out``
    names: they have to be named again where a run goes on."""
    result, left_out = dict(config), []
    for group in BESIDE:
        result[group] = {}
        for name, node in (config.get(group) or {}).items():
            if group == "trainer":
                keep = node == TRAINER if name == "_target_" else not list(targets(node))
            else:
                keep = "_target_" not in node or all(_kind(target, group) for target in targets(node))
            if keep:
                result[group][name] = node
            else:
                left_out.append(f"{group}.{name}")
    return {**result, LEFT_OUT: left_out}


def restored(config: dict[str, Any], path: object) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Trainer, callbacks and loggers of the stored ``config``, those that may be built, and the names of the others.

    Groups that the file lacks, as files of earlier versions do, are absent. Raises ``UserError`` for a class that
    nobody may trust a file to build.
    """
    groups: dict[str, dict[str, Any]] = {}
    left_out = [name for name in config.get(LEFT_OUT, []) if isinstance(name, str)]
    for group in BESIDE:
        if not isinstance(config.get(group), dict):
            continue
        groups[group] = {}
        for name, node in config[group].items():
            if group == "trainer" and name == "_target_":
                continue
            if group == "trainer":
                keep = not list(targets(node))
            else:
                keep = all(_trusted(target, group, path) for target in targets(node))
            if keep:
                groups[group][name] = node
            else:
                left_out.append(f"{group}.{name}")
    if "trainer" in groups:
        groups["trainer"] = {"_target_": TRAINER, **groups["trainer"]}
    return groups, left_out


def output_folder(config: dict[str, Any]) -> str | None:
    """Where the run of a stored configuration wrote."""
    folder = config.get("output_dir") or (config.get("trainer") or {}).get("default_root_dir")
    return folder if isinstance(folder, str) and len(folder) > 1 else None


def moved(node: Any, before: str | None, now: str) -> Any:
    """``node`` with paths in the folder ``before`` in the folder ``now``."""
    if isinstance(node, dict):
        return {key: moved(child, before, now) for key, child in node.items()}
    if isinstance(node, list):
        return [moved(child, before, now) for child in node]
    inside = isinstance(node, str) and before and (node == before or node.startswith(f"{before}/"))
    return now + node.removeprefix(before) if inside else node


def targets(node: Any) -> Iterator[Any]:
    """What a node calls, at any depth."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for child in node.values():
            yield from targets(child)
    elif isinstance(node, list):
        for child in node:
            yield from targets(child)


def _trusted(target: Any, group: str, path: object) -> bool:
    if not isinstance(target, str) or not _possible(target):
        raise UserError(f"{path} wants to call {target} among its {group}; do not use this file.")
    ours = target.startswith(("oboro.", "lightning."))
    if not ours and target.partition(".")[0] not in trusted_packages():
        return False
    if not _kind(target, group):
        raise UserError(f"{path} wants to call {target} among its {group}, which it is not; do not use this file.")
    return True


def _possible(target: str) -> bool:
    """Whether a file may ever name it: a class of oboro's, of Lightning's callbacks and loggers, or of a package of
    somebody's own."""
    ours = target.startswith(("oboro.", "lightning.pytorch.callbacks.", "lightning.pytorch.loggers."))
    return ours or ("." in target and can_be_trusted(target.partition(".")[0]))


def _kind(target: Any, group: str) -> bool:
    """Whether ``target`` is a callback or a logger, or a part of oboro's that one is made of, and may be built."""
    if not isinstance(target, str) or not _possible(target):
        return False
    try:
        named = _locate(target)
    except Exception:  # no such name
        return False
    if not isinstance(named, type):
        return False
    if named.__module__.startswith("oboro."):
        return True
    if named.__module__.startswith("lightning."):
        return issubclass(named, LOGGERS if group == "logger" else lightning.Callback)
    same_package = named.__module__.partition(".")[0] == target.partition(".")[0]
    return same_package and issubclass(named, KINDS[group])
