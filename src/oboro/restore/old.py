"""Configurations of checkpoints that were written by earlier versions, in the words of this one."""

from collections.abc import Mapping
from typing import Any

# Arguments that a class no longer takes: 0 in every configuration that could be built.
GONE: Mapping[str, tuple[str, ...]] = {
    "oboro.conditioner.Unconditional": ("num_classes", "text_dim", "pooled_dim"),
    "oboro.conditioner.Label": ("text_dim", "pooled_dim"),
    "oboro.conditioner.Text": ("num_classes",),
}


def renewed(node: Any) -> Any:
    """``node`` as this version would have written it; what is of this version stays as it is."""
    if isinstance(node, list):
        return [renewed(child) for child in node]
    if not isinstance(node, dict):
        return node
    gone = GONE.get(node.get("_target_"), ())
    return {key: renewed(child) for key, child in node.items() if key not in gone}
