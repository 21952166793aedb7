"""diffusers' ``UNet2DModel`` and ``UNet2DConditionModel`` ↔ ``oboro.model.LDMUNet``."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from oboro.base.errors import UserError
from oboro.interop.hub import unpacked
from oboro.interop.weights import of_others, ours, read_json, read_weights, require, theirs, write_json, write_weights
from oboro.model import LDMUNet
from oboro.restore import State

STEM = "diffusion_pytorch_model"
TARGET = "oboro.model.LDMUNet"
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

BLOCK = {"embedding": "time_emb_proj", "skip": "conv_shortcut"}
PIXELS = {"norm": ["group_norm"], "qkv": ["to_q", "to_k", "to_v"], "proj": ["to_out.0"]}
SEEN = {"query": ["to_q"], "key_value": ["to_k", "to_v"], "proj": ["to_out.0"]}
OUTER = {
    "first": "conv_in",
    "noise.mlp.0": "time_embedding.linear_1",
    "noise.mlp.2": "time_embedding.linear_2",
    "label": "class_embedding",
    "last.0": "conv_norm_out",
    "last.2": "conv_out",
}


def of_attention(rest: str) -> list[str]:
    """attention.qkv, cross.blocks.0.attention.query … of a stage, as diffusers names them below an attention."""
    if rest.startswith("attention."):
        return PIXELS[rest.removeprefix("attention.")]
    rest = rest.removeprefix("cross.")
    if match := re.fullmatch(r"blocks\.(\d+)\.(attention|cross)\.(\w+)", rest):
        which = {"attention": "attn1", "cross": "attn2"}[match[2]]
        return [f"transformer_blocks.{match[1]}.{which}.{part}" for part in SEEN[match[3]]]
    if match := re.fullmatch(r"blocks\.(\d+)\.(\w+)", rest):
        part = {"gate": "ff.net.0.proj", "out": "ff.net.2"}.get(match[2], match[2])
        return [f"transformer_blocks.{match[1]}.{part}"]
    return [{"inward": "proj_in", "outward": "proj_out"}.get(rest, rest)]


def names_of(blocks: int) -> Callable[[str], list[str]]:
    """The names in diffusers of a weight of an ``LDMUNet`` with so many blocks a level."""

    def names(name: str) -> list[str]:
        stem, _, last = name.rpartition(".")
        if name == "empty_text.tokens":
            return []
        if stem in OUTER:
            return [f"{OUTER[stem]}.{last}"]
        way, n, rest = re.fullmatch(r"(down|middle|up)\.(\d+)\.(.*)", stem).groups()
        level, k = divmod(int(n), blocks + 1)
        if way == "middle":
            place, k = "mid_block", int(n)
        else:
            place = f"{way}_blocks.{level}"
        if way == "up":
            _, _, rest = rest.partition(".")  # 0 the stage, 1 the layer that doubles
        if rest.startswith("layer."):
            return [f"{place}.{way}samplers.0.conv.{last}"]
        if rest.startswith("block."):
            part = rest.removeprefix("block.")
            return [f"{place}.resnets.{k}.{BLOCK.get(part, part)}.{last}"]
        return [f"{place}.attentions.{0 if way == 'middle' else k}.{part}.{last}" for part in of_attention(rest)]

    return names


def per_level(value: Any, levels: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * levels


def our_config(config: Mapping[str, Any], table: dict[str, Any], where: Path) -> dict[str, Any]:
    """The configuration of our ``LDMUNet``. Raises ``UserError`` that names the key that it cannot express."""
    kinds = {"UNet2DModel": of_pixels, "UNet2DConditionModel": of_text}
    kind = config.get("_class_name")
    if kind not in kinds:
        raise UserError(f"{where} holds a {kind}; only {' and '.join(kinds)} can be had, choose another model.")
    attention, widths = kinds[kind], list(config["block_out_channels"])
    require(
        config,
        {
            "act_fn": "silu",
            "center_input_sample": False,
            "class_embed_type": None,
            "time_embedding_type": "positional",
            "time_embedding_dim": None,
            "mid_block_scale_factor": 1,
        },
        where,
    )
    two = config["out_channels"] == 2 * config["in_channels"]
    if not two:
        require(config, {"out_channels": config["in_channels"]}, where)
    counts = set(per_level(config.get("layers_per_block", 2), 1))
    if len(counts) > 1:
        raise UserError(f"{where} has layers_per_block={config['layers_per_block']}, not one number; choose another.")
    return {
        "_target_": TARGET,
        "in_channels": config["in_channels"],
        "noise": {
            "_target_": "oboro.model.StepIndex",
            "table": table,
            "cos_first": config.get("flip_sin_to_cos", True),
            "freq_shift": config.get("freq_shift", 0),
        },
        "widths": widths,
        "blocks": counts.pop(),
        "attention": {"_target_": "oboro.model.LDMAttention", **attention(config, widths, where)},
        "norm": {
            "_target_": "oboro.model.GroupNormSettings",
            "groups": config.get("norm_num_groups", 32),
            "eps": config.get("norm_eps", 1e-5),
        },
        "text_dim": config.get("cross_attention_dim", 1280) if attention is of_text else 0,
        "num_classes": config.get("num_class_embeds") or 0,
        "dropout": config.get("dropout", 0.0),
        "scale_shift": shifted(config, where),
        "padded_downsample": config.get("downsample_padding", 1) == 0,
        "learned_variance": two,
    }


def shifted(config: Mapping[str, Any], where: Path) -> bool:
    kind = config.get("resnet_time_scale_shift", "default")
    if kind not in ("default", "scale_shift"):
        raise UserError(f"{where} has resnet_time_scale_shift={kind}, which is unknown here; choose another model.")
    return kind == "scale_shift"


def levels_of(config: Mapping[str, Any], plain: str, attending: str, where: Path) -> list[int]:
    """The levels of which both the way down and the way up have blocks that attend; others must be ``plain``."""
    down, up = config["down_block_types"], config["up_block_types"]
    levels = [i for i, kind in enumerate(down) if kind == f"{attending}DownBlock2D"]
    for key, way, types in (("down_block_types", "Down", down), ("up_block_types", "Up", up[::-1])):
        expected = [f"{attending if i in levels else plain}{way}Block2D" for i in range(len(down))]
        if list(types) != expected:
            raise UserError(
                f"{where} has {key}={config[key]}; only {plain}{way}Block2D and {attending}{way}Block2D on the same "
                "levels down and up can be had, choose another model."
            )
    return levels


def of_pixels(config: Mapping[str, Any], widths: list[int], where: Path) -> dict[str, Any]:
    """The ``LDMAttention`` of a ``UNet2DModel``."""
    require(
        config,
        {
            "mid_block_type": "UNetMidBlock2D",
            "attn_norm_num_groups": None,
            "downsample_type": "conv",
            "upsample_type": "conv",
        },
        where,
    )
    each, attend = config.get("attention_head_dim", 8), config.get("add_attention", True)
    if attend and shifted(config, where):
        raise UserError(
            f"{where} has resnet_time_scale_shift=scale_shift and add_attention=true, with which diffusers leaves out "
            "a normalisation; choose another model."
        )
    return {
        "levels": levels_of(config, "", "Attn", where),
        "heads": [max(1, width // each) if each else 1 for width in widths],
        "middle": attend,
    }


def of_text(config: Mapping[str, Any], widths: list[int], where: Path) -> dict[str, Any]:
    """The ``LDMAttention`` of a ``UNet2DConditionModel``."""
    plain = dict.fromkeys(("only_cross_attention", "dual_cross_attention", "resnet_skip_time_act"), False)
    absent = ("addition_embed_type", "encoder_hid_dim", "encoder_hid_dim_type", "timestep_post_act")
    absent += ("time_cond_proj_dim", "cross_attention_norm", "time_embedding_act_fn", "num_attention_heads")
    one = {"conv_in_kernel": 3, "conv_out_kernel": 3, "resnet_out_scale_factor": 1.0, "attention_type": "default"}
    middle = {"mid_block_type": "UNetMidBlock2DCrossAttn"}
    require(config, {**plain, **dict.fromkeys(absent), **one, **middle}, where)
    depth, text = config.get("transformer_layers_per_block", 1), config.get("cross_attention_dim", 1280)
    for key, value in (("transformer_layers_per_block", depth), ("cross_attention_dim", text)):
        if isinstance(value, list):
            raise UserError(f"{where} has {key}={value}, not one number; choose another model.")
    return {
        "levels": levels_of(config, "", "CrossAttn", where),
        "heads": per_level(config.get("attention_head_dim", 8), len(widths)),
        "depth": depth,
    }


@of_others
def load(folder: str | Path, table: dict[str, Any], text_length: int = 77) -> tuple[dict[str, Any], State]:
    """Configuration and weights of an ``LDMUNet`` on the schedule ``table``; ``empty_text`` is left to the caller."""
    folder = unpacked(Path(folder).expanduser(), "config.json")
    config = our_config(read_json(folder / "config.json"), table, folder)
    if config.get("text_dim"):
        config["empty_text"] = {"_target_": "oboro.model.EmptyText", "length": text_length, "dim": config["text_dim"]}
    state = read_weights(folder, STEM)
    renamed = {}
    for key, value in state.items():
        before, dot, last = key.rpartition(".")
        stem, middle, part = before.rpartition(".")
        renamed[f"{stem}{middle}{OLD_ATTENTION.get(part, part)}{dot}{last}"] = value
    return config, ours(config, renamed, names_of(config["blocks"]), folder)


def save(folder: Path, config: Mapping[str, Any], network: LDMUNet, sample_size: int | list[int]) -> None:
    """``network``, which ``config`` describes in full, as a folder of diffusers."""
    write_json(folder / "config.json", their_config(config, sample_size))
    write_weights(folder / f"{STEM}.safetensors", theirs(network.state_dict(), names_of(config["blocks"])))


def their_config(config: Mapping[str, Any], sample_size: int | list[int]) -> dict[str, Any]:
    """The settings of diffusers of an ``LDMUNet`` that ``config`` describes in full.

    Raises ``UserError`` for one that reads pictures, ends or scales: these are inputs that diffusers has not.
    """
    if config.get("image_channels"):
        raise UserError("diffusers has no network that reads pictures as ours do; export a model of texts or labels.")
    if config.get("reads_end") or config.get("reads_guidance_scale"):
        raise UserError(
            "diffusers has no network that reads the end of a jump, or the scale of guidance as ours do; export a "
            "model of another loss, such as loss=denoising or consistency_latent."
        )
    noise, attention, norm = config["noise"], config["attention"], config["norm"]
    levels, attending = range(len(config["widths"])), "CrossAttn" if config["text_dim"] else "Attn"

    def kinds(way: str) -> list[str]:
        return [f"{attending if i in attention['levels'] else ''}{way}Block2D" for i in levels]

    shape = {
        "in_channels": config["in_channels"],
        "out_channels": config["in_channels"] * (2 if config["learned_variance"] else 1),
        "sample_size": sample_size,
        "block_out_channels": list(config["widths"]),
        "layers_per_block": config["blocks"],
        "down_block_types": kinds("Down"),
        "up_block_types": kinds("Up")[::-1],
        "norm_num_groups": norm["groups"],
        "norm_eps": norm["eps"],
        "dropout": config["dropout"],
        "act_fn": "silu",
        "flip_sin_to_cos": noise["cos_first"],
        "freq_shift": noise["freq_shift"],
        "downsample_padding": 0 if config["padded_downsample"] else 1,
        "resnet_time_scale_shift": "scale_shift" if config["scale_shift"] else "default",
        "num_class_embeds": config["num_classes"] or None,
    }
    return shape | (text_shape(config) if config["text_dim"] else pixel_shape(config))


def text_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    if not config["attention"]["middle"]:
        raise UserError("a UNet2DConditionModel attends in its middle; train with model.attention.middle=true.")
    return {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": list(config["attention"]["heads"]),
        "cross_attention_dim": config["text_dim"],
        "transformer_layers_per_block": config["attention"]["depth"],
        "use_linear_projection": True,
    }


def pixel_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ``UserError`` unless all heads are equally wide, or one alone on each level."""
    attention = config["attention"]
    attending = {*attention["levels"], len(config["widths"]) - 1}
    each = {config["widths"][i] // attention["heads"][i] for i in attending}
    alone = {attention["heads"][i] for i in attending} == {1}
    if not alone and len(each) > 1:
        raise UserError(
            "the heads of a UNet2DModel are equally wide on all levels; change model.attention.heads and train again."
        )
    if config["scale_shift"] and attention["middle"]:
        raise UserError(
            "a UNet2DModel with scale_shift has no normalisation before the attention of its middle; train with "
            "model.scale_shift=false."
        )
    return {
        "_class_name": "UNet2DModel",
        "attention_head_dim": None if alone else each.pop(),
        "add_attention": attention["middle"],
    }
