"""Configurations that earlier versions wrote, in the words of today."""

from collections.abc import Callable
from typing import Any

Node = dict[str, Any]


def trained(task: str) -> Callable[[Node], Node]:
    """A rule for the classes that named the task of a checkpoint by their own name."""
    return lambda node: {
        "_target_": "oboro.restore.Trained",
        "task": task,
        "path": node["path"],
        "profile": node.get("profile"),
    }


# By the ``_target_`` of a node as it was written: what it is today.
RULES: dict[str, Callable[[Node], Node]] = {
    "oboro.checkpoint.TrainedDenoiser": trained("diffusion"),
    "oboro.checkpoint.TrainedClassifier": trained("classification"),
}


def renewed(config: Any) -> Any:
    """``config`` with every node that a rule knows replaced, the inner ones first; everything else as it is."""
    if isinstance(config, list):
        return [renewed(child) for child in config]
    if not isinstance(config, dict):
        return config
    node = {key: renewed(child) for key, child in config.items()}
    rule = RULES.get(node.get("_target_", ""))
    return node if rule is None else rule(node)
