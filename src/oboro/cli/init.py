"""python train.py init=PATH: what the checkpoint was trained with is what training begins with."""

from hydra.utils import get_class

from oboro.base.grammar import files
from oboro.cli.offered import OPTION, offer
from oboro.restore.checkpoint import check_kind, load_checkpoint
from oboro.restore.start import PLACES, at

FINETUNING = {"/optimizer@_global_.optimizer": "adamw_finetune"}


def offer_init(arguments: list[str]) -> list[str]:
    """``arguments`` of train.py, with the task and the options of ``init=PATH`` before those that are named.

    They are options called ``from_checkpoint``, so ``model.dropout=0`` changes one value of what the checkpoint was
    trained with, and ``schedule=cosine`` replaces a part. The model's comes with ``optimizer=adamw_finetune``. Raises
    ``UserError`` where there is no such checkpoint, or where it is of another task than the one that is named.
    """
    paths = files(arguments, "init")
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
        offer(group, at(config, place), paths[0], [FINETUNING] if group == "model" else [])
        chosen[group] = OPTION
    named = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    return [*(f"{group}={name}" for group, name in chosen.items() if group not in named), *arguments]
