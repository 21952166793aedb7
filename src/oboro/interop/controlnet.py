"""diffusers' ``ControlNetModel`` ↔ a checkpoint of ours with a ``ControlNet`` on an ``LDMUNet``."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from oboro.base.errors import UserError
from oboro.interop import unet
from oboro.interop.hub import unpacked
from oboro.interop.pipeline import in_full
from oboro.interop.weights import of_others, ours, read_json, read_weights, require, theirs, write_json, write_weights
from oboro.model import ControlNet, LDMUNet
from oboro.restore import State
from oboro.restore.checkpoint import BUILT, check_kind, load_checkpoint
from oboro.restore.foreign import refuse_foreign
from oboro.restore.merge import merged
from oboro.restore.modality import modality_of
from oboro.restore.rebuild import averaged, build_task
from oboro.restore.wrapped import joined
from oboro.task import Diffusion

KIND = "ControlNetModel"
BRANCH = "branches.0."
COMPARED = ("widths", "blocks", "attention", "norm", "in_channels", "text_dim", "num_classes")
COMPARED += ("scale_shift", "padded_downsample")
ABSENT = ("dropout", "out_channels", "sample_size", "up_block_types")  # keys of a U-Net that a ControlNet has not


def names_of(blocks: int, zeros: int) -> Callable[[str], list[str]]:
    """The names in diffusers of a weight of a ``ControlNet`` on an ``LDMUNet`` with so many blocks a level and
    ``zeros`` zero layers, of which the last is that of the middle."""
    of_copy = unet.names_of(blocks)

    def names(name: str) -> list[str]:
        if not name.startswith(BRANCH):
            return []
        rest = name.removeprefix(BRANCH)
        if rest.startswith("copy."):
            return of_copy(rest.removeprefix("copy."))
        last = rest.rpartition(".")[2]
        if rest.startswith("enter."):
            return [f"controlnet_cond_embedding.conv_out.{last}"]
        n = int(re.fullmatch(r"(?:hint\.layers|zeros)\.(\d+)\.\w+", rest)[1])
        if rest.startswith("hint."):
            return [f"controlnet_cond_embedding.{f'blocks.{n - 1}' if n else 'conv_in'}.{last}"]
        return [f"controlnet_mid_block.{last}" if n == zeros - 1 else f"controlnet_down_blocks.{n}.{last}"]

    return names


def count_zeros(network: Mapping[str, Any]) -> int:
    """Of the zero layers on an ``LDMUNet``: one for each skip, and that of the middle."""
    return len(network["widths"]) * (network["blocks"] + 1) + 1


@of_others
def load(folder: str | Path, network: Mapping[str, Any]) -> tuple[dict[str, Any], State]:
    """The configuration of a ``ControlNet`` on the ``network``, an ``LDMUNet`` that is described in full, and the
    weights of its branch. Raises ``UserError`` where it was made for another network."""
    folder = unpacked(Path(folder).expanduser(), "config.json")
    config = read_json(folder / "config.json")
    if config.get("_class_name") != KIND:
        raise UserError(f"{folder} holds a {config.get('_class_name')} and no {KIND}; leave --base out, or give one.")
    fixed = {"controlnet_conditioning_channel_order": "rgb", "global_pool_conditions": False}
    require(config, fixed, folder)
    kinds = {"DownBlock2D": "UpBlock2D", "CrossAttnDownBlock2D": "CrossAttnUpBlock2D"}
    up = [kinds.get(kind, "none") for kind in reversed(config["down_block_types"])]
    whole = {"_class_name": "UNet2DConditionModel", "out_channels": config["in_channels"], "up_block_types": up}
    found = in_full(unet.our_config({**config, **whole}, network["noise"]["table"], folder))
    noise = {key: (found["noise"][key], network["noise"][key]) for key in ("cos_first", "freq_shift")}
    for key, (there, here) in {**{key: (found[key], network[key]) for key in COMPARED}, **noise}.items():
        if there != here:
            raise UserError(f"{folder} is for a network with {key}={there} and the base has {here}; give its own base.")
    widths = list(config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256))
    made = {
        "_target_": "oboro.model.ControlNet",
        "base": dict(network),
        "hint_channels": config.get("conditioning_channels", 3),
        "hint_factor": 2 ** (len(widths) - 1),
        "hint_widths": widths,
        "checkpointing": False,
    }
    names = names_of(network["blocks"], count_zeros(network))
    return made, ours(made, read_weights(folder, unet.STEM), names, folder)


def load_controlnet(folder: str | Path, base: str | Path) -> Diffusion:
    """The task, in evaluation mode, that draws what the model of the checkpoint ``base`` draws under the control of the
    published one in ``folder``; its average is the published weights."""
    content = merged(load_checkpoint(base))
    check_kind(content, base, "diffusion")
    source = build_task(content)
    averaged(source, base, None)
    config, parts = content["config"], content["config"]["task"]
    if not isinstance(source.get_submodule("denoiser.network"), LDMUNet):
        raise UserError(f"{base} is no model of diffusers' networks; give what oboro import made of the pipeline.")
    network, state = load(folder, in_full(parts["denoiser"]["network"]))
    control = {"_target_": "oboro.conditioner.Control", "image_channels": network["hint_channels"], "dropout": 0.0}
    conditioner = joined(parts["conditioner"])
    conditioner = {**conditioner, "parts": {**conditioner["parts"], "control": control}}
    task_config = {**parts, "denoiser": {**parts["denoiser"], "network": network}, "conditioner": conditioner}
    whole = {**config, "task": task_config}
    refuse_foreign(whole, BUILT, "the model")
    task: Diffusion = instantiate(task_config, _convert_="all")
    wrapped = task.denoiser.network
    wrapped.base.load_state_dict(source.get_submodule("denoiser.network").state_dict())
    wrapped.begin()  # for what the published one has not: what stands for no text
    wrapped.load_state_dict({**wrapped.state_dict(), **state})
    task.codec.load_state_dict(source.get_submodule("codec").state_dict())
    for single in task.conditioner.singles:
        twin = next((s for s in source.get_submodule("conditioner").singles if s.name == single.name), None)
        if twin is not None:
            single.load_state_dict(twin.state_dict())
    task.config, task.modality = whole, modality_of(content)
    task.ema.start(task.learned)
    return task.eval().requires_grad_(False)


def is_controlnet(checkpoint: str | Path) -> bool:
    """Whether the network of a checkpoint is a ``ControlNet``."""
    content = load_checkpoint(checkpoint)
    denoiser = content["config"]["task"].get("denoiser", {})
    return denoiser.get("network", {}).get("_target_") == "oboro.model.ControlNet"


def export(checkpoint: str | Path, folder: str | Path, profile: str | None = None) -> None:
    """Write the averaged weights ``profile`` of the ControlNet in a checkpoint as a folder that diffusers loads; its
    base is a model of its own."""
    content = load_checkpoint(checkpoint)
    task = build_task(content)
    averaged(task, checkpoint, profile)
    network = task.get_submodule("denoiser.network")
    assert isinstance(network, ControlNet)
    save(Path(folder).expanduser(), in_full(content["config"]["task"]["denoiser"]["network"]), network)


def save(folder: Path, config: Mapping[str, Any], network: ControlNet) -> None:
    """``network``, which ``config`` describes in full, as a folder of diffusers. Raises ``UserError`` for one that it
    cannot hold."""
    base = in_full(config["base"])
    if not isinstance(network.base, LDMUNet) or not base["text_dim"]:
        raise UserError(
            f"a {KIND} of diffusers is for networks that read texts, and {type(network.base).__name__} as it is set "
            "has no twin there; train on a base of model=ldm_unet with conditioner=text."
        )
    widths = [network.branches[0].hint.layers[0].out_channels]
    widths += [layer.out_channels for layer in list(network.branches[0].hint.layers)[2::2]]
    if 2 ** (len(widths) - 1) != config["hint_factor"]:
        raise UserError(
            f"a {KIND} of diffusers halves hints before each further width, {len(widths) - 1} times, and this one "
            f"makes 1/{config['hint_factor']} of them; train with so many model.hint_widths."
        )
    if base["learned_variance"]:
        raise UserError(f"a {KIND} of diffusers has no learned variance beside it; train without.")
    shape = {k: v for k, v in unet.their_config(base, 0).items() if k not in ABSENT}
    hint = {"conditioning_channels": config["hint_channels"], "conditioning_embedding_out_channels": widths}
    write_json(folder / "config.json", {**shape, **hint, "_class_name": KIND})
    names = names_of(base["blocks"], count_zeros(base))
    write_weights(folder / f"{unet.STEM}.safetensors", theirs(network.state_dict(), names))
