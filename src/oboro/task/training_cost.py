"""What a model has cost until a checkpoint: network evaluations, with those of the models that it started from."""

from typing import Any

from hydra.utils import instantiate

from oboro.loss import Game

BEFORE = "evaluations_before"  # of a stored configuration: what the model in init had cost


def training_evaluations(checkpoint: dict[str, Any]) -> int | None:
    """Evaluations of networks in training, a sample counted once: those of the loss times batch times steps, and of all
    runs that this one began from. None for another task than one of a denoiser, and where a loss does not say how many
    it takes (``Loss.evaluations``)."""
    config = checkpoint["config"]
    if "denoiser" not in config["task"]:
        return None
    loss = instantiate(config["task"]["loss"], _convert_="all")
    each, before = getattr(loss, "evaluations", None), config.get(BEFORE, 0)
    if isinstance(loss, Game):
        each = loss.evaluations(config["task"]["sampler"]["steps"])
    steps = int(checkpoint["global_step"])
    if hasattr(loss, "evaluations_until"):
        whole = loss.evaluations_until(steps)
    else:
        whole = None if each is None else each * steps
    if whole is None or before is None or "batch_size" not in config.get("data", {}):
        return None
    return before + round(whole * int(config["data"]["batch_size"]))


def evaluations_before(init: dict[str, Any] | None, resumed: dict[str, Any] | None) -> int | None:
    """What a run that starts from the checkpoint ``init``, or goes on from ``resumed``, has behind it at step 0."""
    if resumed is not None:
        return resumed["config"].get(BEFORE, 0)
    return 0 if init is None else training_evaluations(init)
