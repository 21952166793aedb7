"""What a checkpoint keeps of its run's trainer, callbacks and loggers, and what of that a file may build."""

from collections.abc import Iterator
from typing import Any

import lightning
from hydra._internal.utils import _locate
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from oboro.base.errors import UserError
from oboro.restore.checkpoint import BESIDE
from oboro.restore.trust import can_be_trusted, is_ours, trusted_packages

LOOKED_AT_BY_CALLBACKS = ("metrics", "extractor")  # arguments of callbacks that are groups of the run
LEFT_OUT = "left_out"  # of a stored configuration: the nodes of BESIDE that are not kept, by name
TRAINER = "lightning.pytorch.Trainer"
KINDS = {"callbacks": lightning.Callback, "logger": Logger}
OURS = ("oboro.", "lightning.pytorch.callbacks.", "lightning.pytorch.loggers.")
PARTS = ("oboro.metrics.", "oboro.extractor.")  # that callbacks are made of
LIBRARIES = ("oboro.", "lightning.")
# Of Lightning: those that write files and call nobody.
LOGGERS = (TensorBoardLogger, CSVLogger)


def kept(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` without those callbacks, loggers and parts of the trainer that no file may build, which ``left_out``
    names: they have to be named again where a run goes on."""
    result, left_out = dict(config), []
    for group in BESIDE:
        result[group] = {}
        for name, node in (config.get(group) or {}).items():
            if group != "trainer" and "_target_" not in node:  # values for one that callbacks=[...] leaves out
                continue
            if group == "trainer":
                keep = node == TRAINER if name == "_target_" else not list(targets(node))
            else:
                keep = _may_be_built(node, group)
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
    named = config.get(LEFT_OUT)
    left_out = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    for group in BESIDE:
        if not isinstance(config.get(group), dict):
            continue
        groups[group] = {}
        for name, node in config[group].items():
            if group == "trainer" and name == "_target_":
                continue
            keep = not list(targets(node)) if group == "trainer" else _trusted(node, group, path)
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


def _trusted(node: Any, group: str, path: object) -> bool:
    """Whether ``node`` of the file ``path`` may be built here; ``UserError`` where no trust would be enough."""
    foreign = [t for t in targets(node) if not str(t).startswith(OURS)]
    for target in foreign:
        if not isinstance(target, str) or "." not in target or not can_be_trusted(target.partition(".")[0]):
            raise UserError(f"{path} wants to call {target} among its {group}; do not use this file.")
    if any(target.partition(".")[0] not in trusted_packages() for target in foreign):
        return False
    if not _may_be_built(node, group):
        raise UserError(f"{path} has {node!r} among its {group}, which is none; do not use this file.")
    return True


def _may_be_built(node: Any, group: str) -> bool:
    """Whether ``node`` is a callback or a logger, made of plain values and of metrics and extractors: oboro's,
    Lightning's or those of a package that can be trusted."""
    if not isinstance(node, dict) or not _is(node.get("_target_"), KINDS[group]):
        return False
    inner = [target for child in node.values() for target in targets(child)]
    return all(is_ours(t) and t.startswith(PARTS) if str(t).startswith(LIBRARIES) else _is(t, object) for t in inner)


def _is(target: Any, kind: type) -> bool:
    """Whether ``target`` names a ``kind`` that oboro, Lightning or a package that can be trusted defines."""
    if not isinstance(target, str) or "." not in target:
        return False
    package = target.partition(".")[0]
    if not target.startswith(OURS) and not can_be_trusted(package):
        return False
    try:
        named = _locate(target)
    except Exception:  # no such name
        return False
    if not isinstance(named, type) or not issubclass(named, kind) or named.__module__.partition(".")[0] != package:
        return False
    return package != "lightning" or issubclass(named, (lightning.Callback, *LOGGERS))
