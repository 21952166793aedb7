"""Checkpoints with adapters merged into the weights."""

from pathlib import Path
from typing import Any

from torch import Tensor

from oboro.adapter import merged_state, read_adapter
from oboro.restore.checkpoint import check_kind
from oboro.restore.rebuild import build_task, name_of_learned

FULL = {"_target_": "oboro.adapter.Full"}


def merged(checkpoint: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
    """A checkpoint without adapters that draws the same: W + ``scale`` (alpha / rank) B A in the place of W.

    So are the averages: each is merged from the averages of A and of B. It can be drawn with and started from, not
    resumed. A checkpoint without adapters is returned as it is.
    """
    adapter = checkpoint["config"]["task"].get("adapter", FULL)
    if adapter == FULL:
        return checkpoint
    with_scale = {**adapter, "alpha": adapter["alpha"] * scale}
    task = build_task(checkpoint, adapter=with_scale)
    learned = name_of_learned(task)
    others = {key: v for key, v in task.state_dict().items() if not key.startswith(f"{learned}.")}
    raw = {f"{learned}.{key}": v.clone() for key, v in merged_state(task.learned).items()}
    averages = {}
    for profile in task.ema.profiles:
        with task.ema.applied(task.learned, profile):
            averages[profile] = {key: v.float().clone() for key, v in merged_state(task.learned).items()}
    return plain(checkpoint, others | raw, averages)


def with_adapter(checkpoint: dict[str, Any], path: str | Path, scale: float = 1.0) -> dict[str, Any]:
    """A checkpoint of ``task=diffusion`` with the adapter file ``path`` merged at ``scale`` into its weights and
    averages; one for the base of a ControlNet, of which there are no averages, into the base. Raises ``UserError``
    where they do not belong together."""
    adapter, checkpoint = read_adapter(path), merged(checkpoint)
    check_kind(checkpoint, path, "diffusion")
    averages, place = checkpoint["ema"]["averages"], "denoiser.network."
    if "base" in checkpoint["config"]["task"]["denoiser"]["network"]:
        place += "base."
    else:
        averages = {k: adapter.added(v, "network.", scale) for k, v in averages.items()}
    return plain(checkpoint, adapter.added(checkpoint["state_dict"], place, scale), averages)


def plain(
    checkpoint: dict[str, Any], state: dict[str, Tensor], averages: dict[str, dict[str, Tensor]]
) -> dict[str, Any]:
    """What is needed of ``checkpoint`` to draw, with other weights and no adapter."""
    config = checkpoint["config"]
    beside = {
        key: checkpoint[key] for key in ("modality", "fingerprint", "averages") if key in checkpoint
    }  # no file has to have them
    return {
        **beside,
        "config": {**config, "task": {**config["task"], "adapter": FULL}},
        "state_dict": state,
        "ema": {**checkpoint["ema"], "averages": averages},
        "global_step": checkpoint["global_step"],
    }
