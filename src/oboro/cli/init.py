"""python train.py init=PATH: what the checkpoint was trained with is what training begins with."""

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import get_class

from oboro.base.grammar import values
from oboro.restore.checkpoint import check_kind, load_checkpoint
from oboro.restore.start import PLACES, at

# Groups within a group, chosen by themselves: loss/time=logit_normal.
NESTED = {
    "loss": ("time", "weighting", "penalty", "coupling", "perceptual", "discriminator"),
    "guidance": ("weight",),
    "sampler": ("grid",),
}


def offer_init(arguments: list[str]) -> list[str]:
    """``arguments`` of train.py, with the task and the options of ``init=PATH`` before those that are named.

    They are options called ``from_checkpoint``, so ``model.dropout=0`` changes one value of what the checkpoint was
    trained with, and ``schedule=cosine`` replaces a part. The model's comes with ``optimizer=adamw_finetune``. Raises
    ``UserError`` where there is no such checkpoint, or where it is of another task than the one that is named.
    """
    paths = [path for path in values(arguments, "init") if path not in (None, "")]
    if not paths:
        return arguments
    checkpoint = load_checkpoint(paths[0])
    config = checkpoint["config"]["task"]
    kind = get_class(config["_target_"]).__name__.lower()
    for argument in arguments:
        if argument.startswith("task="):
            check_kind(checkpoint, paths[0], argument.removeprefix("task="))
    chosen = {"task": kind}
    for group, place in PLACES[kind].items():
        offer(group, at(config, place))
        chosen[group] = "from_checkpoint"
    named = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    return [*(f"{group}={name}" for group, name in chosen.items() if group not in named), *arguments]


def offer(group: str, node: dict[str, Any]) -> None:
    """Make ``node`` the option ``from_checkpoint`` of ``group``, and its parts those of the groups within it."""
    store = ConfigStore.instance().store
    parts = [part for part in NESTED.get(group, ()) if isinstance(node.get(part), dict)]
    for part in parts:
        store("from_checkpoint", node[part], group=f"{group}/{part}")
    defaults: list[Any] = [{part: "from_checkpoint"} for part in parts]
    if group == "model":
        defaults.append({"/optimizer@_global_.optimizer": "adamw_finetune"})
    rest = {key: value for key, value in node.items() if key not in parts}
    store("from_checkpoint", {"defaults": [*defaults, "_self_"], **rest}, group=group)
