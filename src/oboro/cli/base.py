"""python train.py model=controlnet model.base.path=PATH: what belongs to the network of the checkpoint comes with it."""

from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from oboro.base.grammar import files
from oboro.cli.folder import AUTO
from oboro.cli.offered import OPTION, offer
from oboro.restore.checkpoint import check_kind, load_checkpoint
from oboro.restore.start import PLACES, at

KEY = "model.base.path"
TAKEN = ("codec", "conditioner", "schedule", "parameterization", "loss", "guidance", "sampler")
JOINT = "oboro.conditioner.Joint"


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
    return [*(f"{group}={OPTION}" for group in TAKEN if group not in named), *arguments]


def joined(node: dict[str, Any]) -> dict[str, Any]:
    """The conditioner ``node`` as the parts of a joint one: ``label`` and ``text``, by their classes."""
    kind = get_class(node["_target_"]).__name__.lower()
    if kind == "joint":
        return node
    return {"_target_": JOINT, "parts": {} if kind == "unconditional" else {kind: node}, "dropout": 0.0}


def base_of(config: DictConfig) -> str | None:
    """The checkpoint whose network the run wraps; None where it wraps none."""
    base = config.model.get("base") if "model" in config else None
    missing = base is None or OmegaConf.is_missing(base, "path")
    return None if missing else base.get("path")
