"""Files of LDM and Stable Diffusion as their authors published them: one checkpoint of all parts, and a YAML file."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from oboro.base.errors import UserError
from oboro.interop import autoencoder, clip_text, pipeline, schedule
from oboro.interop.open_clip import open_clip_names
from oboro.interop.state import read_tensors
from oboro.interop.unet import TARGET, of_attention
from oboro.interop.weights import of_others, ours, read_yaml, require
from oboro.restore import State

NETWORK, FIRST_STAGE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
HEAD = 64  # channels of a head in every CLIP that was published with a diffusion model

BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "embedding": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
}
OUTER = {
    "first": "input_blocks.0.0",
    "noise.mlp.0": "time_embed.0",
    "noise.mlp.2": "time_embed.2",
    "last.0": "out.0",
    "last.2": "out.2",
}


def network_names(blocks: int, attention_levels: list[int], levels: int) -> Callable[[str], list[str]]:
    """The names in LDM's ``UNetModel`` of a weight of our ``LDMUNet``."""

    def doubling(n: int) -> int:
        """Its place among the layers of ``output_blocks.n``: after the block, and attention if there is one."""
        return 2 if levels - 1 - n // (blocks + 1) in attention_levels else 1

    def names(name: str) -> list[str]:
        stem, _, last = name.rpartition(".")
        if name == "empty_text.tokens":
            return []
        if stem in OUTER:
            return [f"{OUTER[stem]}.{last}"]
        way, n, rest = re.fullmatch(r"(down|middle|up)\.(\d+)\.(.*)", stem).groups()
        if way == "up":
            _, _, rest = rest.partition(".")
        place = {"down": f"input_blocks.{int(n) + 1}", "up": f"output_blocks.{n}", "middle": "middle_block"}[way]
        if rest.startswith("layer."):
            return [f"{place}.0.op.{last}" if way == "down" else f"{place}.{doubling(int(n))}.conv.{last}"]
        if rest.startswith("block."):
            return [f"{place}.{2 * int(n) if way == 'middle' else 0}.{BLOCK[rest.removeprefix('block.')]}.{last}"]
        return [f"{place}.1.{part}.{last}" for part in of_attention(rest)]

    return names


def first_stage_names(levels: int) -> Callable[[str], list[str]]:
    """The names in LDM's ``AutoencoderKL`` of a weight of our ``Autoencoder``; up-levels are counted from the image."""

    def names(name: str) -> list[str]:
        if name.startswith("latent_"):
            return []
        side, _, rest = name.partition(".")
        outer = {"to_posterior": "quant_conv", "from_latent": "post_quant_conv"}
        if side in outer:
            return [f"{outer[side]}.{rest}"]
        if match := re.fullmatch(r"levels\.(\d+)\.(\d+)\.(.*)", rest):
            level, k, part = int(match[1]), match[2], match[3]
            way, way_on = ("down", "downsample") if side == "encoder" else ("up", "upsample")
            level = level if side == "encoder" else levels - 1 - level
            if part.startswith("1."):  # Sequential(pad or double, convolution)
                return [f"{side}.{way}.{level}.{way_on}.conv.{part.removeprefix('1.')}"]
            return [f"{side}.{way}.{level}.block.{k}.{part.replace('skip.', 'nin_shortcut.')}"]
        if match := re.fullmatch(r"middle\.1\.(\w+)\.(\w+)", rest):
            parts = {"norm": ["norm"], "qkv": ["q", "k", "v"], "proj": ["proj_out"]}[match[1]]
            return [f"{side}.mid.attn_1.{part}.{match[2]}" for part in parts]
        rest = re.sub(r"^middle\.([02])\.", lambda m: f"mid.block_{int(m[1]) // 2 + 1}.", rest)
        return [f"{side}.{re.sub(r'^norm[.]', 'norm_out.', rest)}"]

    return names


def below(prefix: str, state: State) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def network_config(params: Mapping[str, Any], table: dict[str, Any], length: int, where: Path) -> dict[str, Any]:
    """The configuration of our ``LDMUNet`` from that of LDM's ``UNetModel``."""
    absent = {"num_classes": None, "use_scale_shift_norm": False, "resblock_updown": False, "dims": 2}
    require(params, {"use_spatial_transformer": True, "conv_resample": True, **absent}, where)
    require(params, {"out_channels": params["in_channels"]}, where)
    widths = [params["model_channels"] * mult for mult in params["channel_mult"]]
    each = params.get("num_head_channels", -1)
    levels = [i for i in range(len(widths)) if 2**i in params["attention_resolutions"]]
    text = {"_target_": "oboro.model.EmptyText", "length": length, "dim": params["context_dim"]}
    return {
        "_target_": TARGET,
        "in_channels": params["in_channels"],
        "noise": {"_target_": "oboro.model.StepIndex", "table": table},
        "widths": widths,
        "blocks": params["num_res_blocks"],
        "attention": {
            "_target_": "oboro.model.LDMAttention",
            "levels": levels,
            "heads": [params["num_heads"] if each == -1 else width // each for width in widths],
            "depth": params.get("transformer_depth", 1),
        },
        "text_dim": params["context_dim"],
        "empty_text": text,
        "dropout": params.get("dropout", 0.0),
    }


def codec_config(params: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """The configuration of our ``Autoencoder`` from that of LDM's ``AutoencoderKL``."""
    shape = params["ddconfig"]
    require(shape, {"double_z": True, "attn_resolutions": [], "out_ch": shape["in_channels"]}, where)
    require(params, {"embed_dim": shape["z_channels"]}, where)
    return {
        "_target_": "oboro.codec.Autoencoder",
        "in_channels": shape["in_channels"],
        "channels": shape["z_channels"],
        "width": shape["ch"],
        "channel_mult": list(shape["ch_mult"]),
        "blocks": shape["num_res_blocks"],
        "groups": 32,
    }


def text_encoder(state: State, skipped: int, where: Path) -> tuple[dict[str, Any], State]:
    """A ``CLIPText`` without its tokenizer, of the shape of its weights, less the last ``skipped`` layers.

    OpenAI's have the gate x sigmoid(1.702 x) and OpenCLIP's GELU; Stable Diffusion 2 skips OpenCLIP's last layer.
    """
    vectors, layer, names = below(CLIP, state), r"encoder\.layers\.(\d+)\.", clip_text.names
    token, first = "embeddings.token_embedding.weight", "encoder.layers.0.mlp.fc1.weight"
    place, quick = "embeddings.position_embedding.weight", True
    if not vectors:
        vectors, layer, names = below(OPEN_CLIP, state), r"transformer\.resblocks\.(\d+)\.", open_clip_names
        token, first = "token_embedding.weight", "transformer.resblocks.0.mlp.c_fc.weight"
        place, quick = "positional_embedding", False
    if token not in vectors:
        raise UserError(f"{where} has no CLIP text encoder, and no other is read; choose another file.")
    numbers = {key: int(n[1]) for key in vectors if (n := re.match(layer, key))}
    depth = max(numbers.values()) + 1 - skipped
    dim = vectors[token].shape[1]
    config = {
        "_target_": "oboro.model.CLIPText",
        "vocab_size": len(vectors[token]),
        "length": len(vectors[place]),
        "dim": dim,
        "depth": depth,
        "heads": max(dim // HEAD, 1),
        "mlp_dim": len(vectors[first]),
        "quick_gelu": quick,
        "eps": 1e-5,
    }
    unread = ("embeddings.position_ids", "text_projection", "logit_scale", "attn_mask")
    kept = {k: v for k, v in vectors.items() if numbers.get(k, 0) < depth and k not in unread}
    if quick:
        kept = {f"{clip_text.PREFIX}{key}": value for key, value in kept.items()}
    return config, ours({**config, "tokenizer_bytes": 1, "end": 0, "pad": 0}, kept, names, where)


@of_others
def read(weights: str | Path, yaml: str | Path, tokenizer: str | Path) -> pipeline.Published:
    """What a file of Stable Diffusion 1 or 2 holds, with the YAML file of its training and the folder of a tokenizer.

    Raises ``UserError`` for a file that is something else, or holds what we cannot express.
    """
    weights, yaml = Path(weights).expanduser(), Path(yaml).expanduser()
    params = read_yaml(yaml)["model"]["params"]
    state = read_tensors(weights)
    table = {
        "_target_": "oboro.schedule.ScaledLinear",
        "beta_start": params["linear_start"],
        "beta_end": params["linear_end"],
        "steps": params["timesteps"],
    }
    kinds = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
    require(params, {"beta_schedule": "linear"}, yaml)
    aim = schedule.our_parameterization({"prediction_type": kinds.get(params.get("parameterization", "eps"))}, yaml)
    sampler = schedule.our_sampler({"num_train_timesteps": params["timesteps"], "steps_offset": 1}, pipeline.STEPS)
    skipped = int(params["cond_stage_config"].get("params", {}).get("layer") == "penultimate")
    encoder, encoder_state = clip_text.with_tokenizer(
        *text_encoder(state, skipped, weights), Path(tokenizer).expanduser()
    )
    network = network_config(params["unet_config"]["params"], table, encoder["length"], yaml)
    codec = codec_config(params["first_stage_config"]["params"], yaml)
    shape = (network["blocks"], network["attention"]["levels"], len(network["widths"]))
    network_state = ours(network, below(NETWORK, state), network_names(*shape), weights)
    first = {k: v for k, v in below(FIRST_STAGE, state).items() if not k.startswith("loss.")}
    codec_state = ours(codec, first, first_stage_names(len(codec["channel_mult"])), weights)
    scaling = {"latent_channels": codec["channels"], "scaling_factor": params["scale_factor"]}
    codec_state |= autoencoder.statistics(scaling)
    side = params["image_size"]
    return pipeline.with_text(network, network_state, aim, codec, codec_state, encoder, encoder_state, sampler, side)
