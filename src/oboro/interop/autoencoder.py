"""diffusers' ``AutoencoderKL`` ↔ ``oboro.codec.Autoencoder``."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oboro.base.errors import UserError
from oboro.interop.hub import unpacked
from oboro.interop.weights import (
    check_module,
    of_others,
    ours,
    read_json,
    read_weights,
    require,
    theirs,
    write_json,
    write_weights,
)
from oboro.restore import State

STEM = "diffusion_pytorch_model"
MOST_CHANNELS = 1024  # of a latent that no convolution follows
# Names of attention before diffusers 0.15, which files still have.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def names(name: str) -> list[str]:
    """The names in ``AutoencoderKL`` of a weight of ours; the statistics of latents are in its configuration."""
    if name.startswith("latent_"):
        return []
    outer = {"to_posterior": "quant_conv", "from_latent": "post_quant_conv"}
    side, _, rest = name.partition(".")
    if side in outer:
        return [f"{outer[side]}.{rest}"]
    levels, resample = ("down_blocks", "downsamplers") if side == "encoder" else ("up_blocks", "upsamplers")
    if match := re.fullmatch(r"levels\.(\d+)\.(\d+)\.1\.(\w+)", rest):  # Sequential(pad or double, convolution)
        return [f"{side}.{levels}.{match[1]}.{resample}.0.conv.{match[3]}"]
    rest = re.sub(r"^levels\.(\d+)\.(\d+)\.", rf"{levels}.\1.resnets.\2.", rest)
    rest = re.sub(r"^middle\.([02])\.", lambda m: f"mid_block.resnets.{int(m[1]) // 2}.", rest)
    rest = re.sub(r"^norm\.", "conv_norm_out.", rest).replace(".skip.", ".conv_shortcut.")
    if match := re.fullmatch(r"middle\.1\.(\w+)\.(\w+)", rest):
        parts = {"norm": ["group_norm"], "qkv": ["to_q", "to_k", "to_v"], "proj": ["to_out.0"]}[match[1]]
        return [f"{side}.mid_block.attentions.0.{part}.{match[2]}" for part in parts]
    return [f"{side}.{rest}"]


def our_config(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """The configuration of our ``Autoencoder``. Raises ``UserError`` that names what it cannot express."""
    require(config, {"_class_name": "AutoencoderKL"}, where)
    widths = list(config["block_out_channels"])
    require(
        config,
        {
            "act_fn": "silu",
            "down_block_types": ["DownEncoderBlock2D"] * len(widths),
            "up_block_types": ["UpDecoderBlock2D"] * len(widths),
            "out_channels": config["in_channels"],
        },
        where,
    )
    if any(width % widths[0] for width in widths):
        raise UserError(f"{where} has block_out_channels={widths}, no multiples of the first; choose another model.")
    return {
        "_target_": "oboro.codec.Autoencoder",
        "in_channels": config["in_channels"],
        "channels": config["latent_channels"],
        "width": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "blocks": config.get("layers_per_block", 1),
        "attention": config.get("mid_block_add_attention", True),
        "groups": config.get("norm_num_groups", 32),
    }


def statistics(config: Mapping[str, Any]) -> State:
    """z = (latent - shift) scaling, or with lists (latent - latents_mean) scaling / latents_std."""
    channels, scaling = config["latent_channels"], config.get("scaling_factor", 0.18215)
    mean = config.get("latents_mean") or [config.get("shift_factor") or 0.0] * channels
    std = config.get("latents_std") or [1.0] * channels
    return {"latent_mean": torch.tensor(mean), "latent_std": torch.tensor(std) / scaling}


def without_convolution(state: State, config: Mapping[str, Any]) -> State:
    """``state`` with identities where ``use_quant_conv`` or ``use_post_quant_conv`` left a convolution out."""
    added: State = {}
    for key, name, copies in (("use_quant_conv", "quant_conv", 2), ("use_post_quant_conv", "post_quant_conv", 1)):
        if not config.get(key, True):
            if config["latent_channels"] > MOST_CHANNELS:
                raise ValueError(f"latent_channels={config['latent_channels']}")
            n = copies * config["latent_channels"]
            added |= {f"{name}.weight": torch.eye(n)[:, :, None, None], f"{name}.bias": torch.zeros(n)}
    return {**state, **added}


@of_others
def load(folder: str | Path) -> tuple[dict[str, Any], State]:
    """Configuration and weights of our ``Autoencoder`` from the folder of an ``AutoencoderKL``."""
    folder = unpacked(Path(folder).expanduser(), "config.json")
    settings = read_json(folder / "config.json")
    config = our_config(settings, folder)
    check_module(config, folder)
    state = without_convolution(read_weights(folder, STEM), settings)
    renamed = {}
    for key, value in state.items():
        before, dot, last = key.rpartition(".")
        stem, middle, name = before.rpartition(".")
        renamed[f"{stem}{middle}{OLD_ATTENTION.get(name, name)}{dot}{last}"] = value
    return config, ours(config, renamed, names, folder) | statistics(settings)


def save(folder: Path, config: Mapping[str, Any], codec: nn.Module, sample_size: int) -> None:
    """``codec``, which ``config`` describes, as a folder of ``AutoencoderKL``. One number scales all latents there."""
    mean, std = codec.latent_mean, codec.latent_std
    if not (torch.equal(mean, mean[:1].expand_as(mean)) and torch.equal(std, std[:1].expand_as(std))):
        raise UserError(
            "diffusers' pipelines scale all channels of a latent alike and this codec has statistics of its own for "
            "each; train it with callbacks that leave out latent_statistics, or keep it here."
        )
    if config.get("groups") is None:
        groups = {module.num_groups for module in codec.modules() if isinstance(module, torch.nn.GroupNorm)}
        if len(groups) > 1:
            raise UserError(
                f"the codec's normalisations have {sorted(groups)} groups and diffusers' one number for all; train it "
                "with +codec.groups=4 or another number."
            )
        config = {**config, "groups": groups.pop()}
    width, mult = config["width"], config["channel_mult"]
    shape = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "in_channels": config["in_channels"],
        "out_channels": config["in_channels"],
        "latent_channels": config["channels"],
        "block_out_channels": [width * m for m in mult],
        "down_block_types": ["DownEncoderBlock2D"] * len(mult),
        "up_block_types": ["UpDecoderBlock2D"] * len(mult),
        "layers_per_block": config["blocks"],
        "mid_block_add_attention": config["attention"],
        "norm_num_groups": config["groups"],
        "scaling_factor": 1 / std[0].item(),
        "shift_factor": mean[0].item() or None,
        "sample_size": sample_size,
    }
    write_json(folder / "config.json", shape)
    write_weights(folder / f"{STEM}.safetensors", theirs(codec.state_dict(), names))
