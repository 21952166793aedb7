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


def without(*arguments: str) -> Callable[[Node], Node]:
    """A rule for a class that no longer takes ``arguments``, which changed nothing."""
    return lambda node: {key: value for key, value in node.items() if key not in arguments}


# Arguments of an ``LDMUNet`` that became one: its class, and what each was called before.
LDM_UNET = {
    "noise": ("oboro.model.StepIndex", {"table": "table", "cos_first": "cos_first", "freq_shift": "freq_shift"}),
    "attention": (
        "oboro.model.LDMAttention",
        {"levels": "attention_levels", "heads": "heads", "middle": "middle_attention", "depth": "depth"},
    ),
    "norm": ("oboro.model.GroupNormSettings", {"groups": "groups", "eps": "eps"}),
}


def ldm_unet(node: Node) -> Node:
    """An ``LDMUNet`` of 21 arguments: those that belong together are one."""
    before = {old for _, names in LDM_UNET.values() for old in names.values()}
    today = {key: value for key, value in node.items() if key not in before}
    for key, (target, names) in LDM_UNET.items():
        if held := {new: node[old] for new, old in names.items() if old in node}:
            today[key] = {"_target_": target, **held}
    return today


def with_noise(node: Node) -> Node:
    """A task of the time when ranks drew for themselves: it goes on so."""
    return {"noise": "per_rank", **node}


def with_adapter(node: Node) -> Node:
    """A ``Diffusion`` of a time without adapters: all weights are trained."""
    return node if node.get("adapter") else {**node, "adapter": {"_target_": "oboro.adapter.Full"}}


def with_divergence(node: Node) -> Node:
    """A task of a time in which nobody said what follows a step that diverges."""
    return node if node.get("divergence") else {**node, "divergence": {"_target_": "oboro.divergence.Raise"}}


def with_hint(node: Node) -> Node:
    """A picture of a time in which all were brought by the data."""
    given = {"_target_": "oboro.hint.Given", "channels": node["image_channels"]}
    return node if node.get("hint") else {**node, "hint": given}


# By the ``_target_`` of a node as it was written: what it is today.
RULES: dict[str, Callable[[Node], Node]] = {
    "oboro.checkpoint.TrainedDenoiser": trained("diffusion"),
    "oboro.checkpoint.TrainedClassifier": trained("classification"),
    # 0 in every configuration that could be built: conditioners took them only to raise.
    "oboro.conditioner.Unconditional": without("num_classes", "text_dim", "pooled_dim"),
    "oboro.conditioner.Image": with_hint,
    "oboro.conditioner.Label": without("text_dim", "pooled_dim"),
    "oboro.conditioner.Text": without("num_classes"),
    "oboro.model.LDMUNet": ldm_unet,
    "oboro.task.Autoencoder": lambda node: with_divergence(with_noise(node)),
    "oboro.task.Classification": lambda node: with_divergence(with_noise(node)),
    "oboro.task.CLIP": with_divergence,
    "oboro.task.Diffusion": lambda node: with_divergence(with_noise(with_adapter(node))),
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
