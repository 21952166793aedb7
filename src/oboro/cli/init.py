"""python train.py init=PATH: what the checkpoint was trained with is what training begins with."""

from collections.abc import Iterator
from inspect import signature
from typing import Any

from hydra.utils import get_class
from omegaconf import OmegaConf

from oboro.base.grammar import files, values
from oboro.cli.offered import OPTION, offer
from oboro.cli.options import folders
from oboro.cli.resume import split
from oboro.condition import NUMBERS
from oboro.restore.checkpoint import ALSO, check_kind, kind_of, load_checkpoint
from oboro.restore.start import PLACES, at

FINETUNING = {"/optimizer@_global_.optimizer": "adamw_finetune"}
ADDING = ("conditioner", "guidance")  # what makes a model of another kind of the one in a checkpoint
PICTURES = "${condition:image_channels}"


def offer_init(arguments: list[str]) -> list[str]:
    """``arguments`` of train.py, with the task and the options of ``init=PATH`` before those that are named.

    They are options called ``from_checkpoint``, so ``model.dropout=0`` changes one value of what the checkpoint was
    trained with, and ``schedule=cosine`` replaces a part. The model's comes with ``optimizer=adamw_finetune``. Where
    the conditioner is named, or the experiment's own because it gives the model a picture to read, the channels of that
    picture are further input of the model (``oboro.restore.start``). So are the end of a jump and the scale of guidance
    where the loss needs them.
    A loss that is named brings the sampler and the guidance that it chooses. Raises ``UserError`` where there is no
    such checkpoint, or where it is of another task than the one that is named.
    """
    paths = files(arguments, "init")
    if not paths:
        return arguments
    checkpoint = load_checkpoint(paths[0])
    config = checkpoint["config"]["task"]
    kind = kind_of(checkpoint)
    for argument in arguments:
        if argument.startswith("task="):
            kind = argument.removeprefix("task=")
            check_kind(checkpoint, paths[0], ALSO.get(kind, kind))
    chosen = {"task": kind}
    named = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    named |= of_experiment(arguments) | of_loss(arguments)
    for group, place in PLACES[kind].items():
        node = at(config, place)
        if group == "model":
            offer(group, node, paths[0], [FINETUNING], following(node, "conditioner" in named))
        else:
            offer(group, node, paths[0])
        chosen[group] = OPTION
    words, flags = split(arguments)
    return [*flags, *(f"{group}={name}" for group, name in chosen.items() if group not in named), *words]


def following(node: dict[str, Any], other_conditioner: bool) -> dict[str, str]:
    """The settings of the network ``node`` that follow a loss that needs an end or a scale of guidance, and a
    conditioner other than the checkpoint's. A network that reads such a number goes on doing so."""
    known = signature(get_class(node["_target_"])).parameters
    new = [name for name in NUMBERS if f"reads_{name}" in known and not node.get(f"reads_{name}")]
    numbers = {f"reads_{name}": f"${{loss:needs_{name}}}" for name in new}
    return numbers | ({"image_channels": PICTURES} if other_conditioner and "image_channels" in known else {})


def of_experiment(arguments: list[str]) -> set[str]:
    """The groups in which the experiment's choice counts more than the checkpoint's: the conditioner that gives the
    model a picture to read, and the guidance with it; the loss, and what it chooses (``of_loss``)."""
    groups: set[str] = set()
    for name in values(arguments, "experiment"):
        chosen = {group: option for group, option in defaults("experiment", str(name)) if group.startswith("override ")}
        if reads_picture(chosen.get("override /conditioner", "")):
            groups |= {group for group in ADDING if f"override /{group}" in chosen}
        if loss := chosen.get("override /loss"):
            groups |= {"loss", *chosen_by("loss", loss)}
    return groups


def of_loss(arguments: list[str]) -> set[str]:
    """The groups in which the choice of a typed loss counts more than the checkpoint's: what it teaches may ask for
    another sampler than the model in the checkpoint."""
    return {group for name in values(arguments, "loss") for group in chosen_by("loss", str(name))}


def chosen_by(group: str, option: str) -> Iterator[str]:
    """The groups of the run for which an option, or one that it extends, chooses: ``override
    /sampler@_global_.sampler``."""
    for key, inner in defaults(group, option):
        if not key:
            yield from chosen_by(group, inner)
        elif (place := key.partition("@_global_."))[1]:
            yield place[2]


def reads_picture(option: str) -> bool:
    """Whether ``conditioner=option``, or a part of it, is a picture."""
    return option == "image" or any(reads_picture(inner) for _, inner in defaults("conditioner", option))


def defaults(group: str, option: str) -> Iterator[tuple[str, str]]:
    """The defaults list of an option: a group, "" for its own, and the option that is chosen there."""
    file = next((path for folder in folders() if (path := folder / group / f"{option}.yaml").is_file()), None)
    entries = [] if file is None else OmegaConf.to_container(OmegaConf.load(file)).get("defaults", [])
    for entry in entries:
        pairs = entry.items() if isinstance(entry, dict) else [("", entry)]
        yield from ((key, inner) for key, inner in pairs if isinstance(inner, str) and inner != "_self_")
