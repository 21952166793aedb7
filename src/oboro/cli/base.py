"""python train.py model=controlnet model.base.path=PATH: what belongs to the network of the checkpoint comes along."""

from omegaconf import DictConfig, OmegaConf

from oboro.base.errors import UserError
from oboro.base.grammar import files
from oboro.cli.folder import AUTO
from oboro.cli.offered import OPTION, offer
from oboro.cli.resume import split
from oboro.conditioner.conditioner import width
from oboro.restore.checkpoint import check_kind, load_checkpoint
from oboro.restore.start import PLACES, at
from oboro.restore.wrapped import joined

KEY = "model.base.path"
TAKEN = ("codec", "conditioner", "schedule", "parameterization", "loss", "guidance", "sampler")


def offer_base(arguments: list[str]) -> list[str]:
    """``arguments`` of train.py, with the options of ``model.base.path=PATH`` before those that are named.

    They are called ``from_checkpoint``, as those of ``init=PATH``: all that the network was trained with, and its
    condition joined by the picture ``control``. A run that goes on has its own. Raises ``UserError`` where there is no
    such checkpoint.
    """
    paths = files(arguments, KEY)
    if not paths or files(arguments, "init") or [path for path in files(arguments, "resume") if path != AUTO]:
        return arguments
    checkpoint = load_checkpoint(paths[0])
    check_kind(checkpoint, paths[0], "diffusion")
    config = checkpoint["config"]["task"]
    for group in TAKEN:
        node = at(config, PLACES["diffusion"][group])
        if group == "conditioner":
            offer(group, joined(node), paths[0], [{"/conditioner@parts.control": "control"}])
        else:
            offer(group, node, paths[0])
    named = {argument.lstrip("+").partition("=")[0] for argument in arguments}
    words, flags = split(arguments)
    return [*flags, *(f"{group}={OPTION}" for group in TAKEN if group not in named), *words]


def check_base(config: DictConfig) -> None:
    """Raises ``UserError`` where a network is to be wrapped and none is named, or where no condition gives what it is
    controlled by: by a path that is written in a file of options nothing else comes along."""
    base = config.model.get("base") if "model" in config else None
    if base is None:
        return
    if OmegaConf.is_missing(base, "path"):  # first, as "in" is false for what is missing
        raise UserError(f"{KEY} has no value; set {KEY}=<a checkpoint of task=diffusion>.")
    if "path" not in base:
        return
    if not width("image_channels", "control", _root_=config):
        raise UserError(
            f"the network in {KEY} learns to follow the picture control and no condition gives it; name {KEY} on the "
            "command line, with which one comes, or choose conditioner=control."
        )


def base_of(config: DictConfig) -> str | None:
    """The checkpoint whose network the run wraps; None where it wraps none."""
    base = config.model.get("base") if "model" in config else None
    missing = base is None or OmegaConf.is_missing(base, "path")
    return None if missing else base.get("path")
