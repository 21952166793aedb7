"""Text towers in the files of OpenCLIP ↦ ``oboro.model.CLIPText``."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oboro.base.errors import UserError
from oboro.interop import clip_text
from oboro.interop.hub import Files, weight_files
from oboro.interop.weights import of_others, ours, read_json, read_weights, require
from oboro.restore import State

STEMS = ("open_clip_model", "open_clip_pytorch_model")
FILES = Files("open_clip_config.json", weight_files(*STEMS), clip_text.TOKENIZERS, clip_text.MARKS)
TOWER = "text."  # before the names of a CLIP whose text tower is a module of its own
UNREAD = ("visual.", "logit_scale", "logit_bias", "text_projection", "attn_mask")
LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.")
PAD = 0  # OpenCLIP's tokenizer fills up with zeros, whatever the token of that id is
# Settings of towers that are none of CLIP's: another mask, another block, another tokenizer.
SAME = {
    "hf_model_name": None,
    "hf_tokenizer_name": None,
    "tokenizer_mode": None,
    "tokenizer_kwargs": None,
    "embed_cls": False,
    "no_causal_mask": False,
    "final_ln_after_pool": False,
    "pool_type": "argmax",
    "pad_id": PAD,
    "ls_init_value": None,
    "act_kwargs": None,
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}


def open_clip_names(name: str) -> list[str]:
    """The names in OpenCLIP's text tower of a weight of our ``CLIPText``."""
    outer = {"token.weight": "token_embedding.weight", "position.weight": "positional_embedding"}
    if name in outer:
        return [outer[name]]
    if name == "tokenizer":
        return []
    stem, _, last = name.rpartition(".")
    if stem == "norm":
        return [f"ln_final.{last}"]
    n, part = re.fullmatch(r"blocks\.(\d+)\.(\w+)", stem).groups()
    if part == "qkv":
        return [f"transformer.resblocks.{n}.attn.in_proj_{last}"]
    parts = {"norm1": "ln_1", "norm2": "ln_2", "proj": "attn.out_proj", "mlp1": "mlp.c_fc", "mlp2": "mlp.c_proj"}
    return [f"transformer.resblocks.{n}.{parts[part]}.{last}"]


def our_config(settings: Mapping[str, Any], skip: int, where: Path) -> dict[str, Any]:
    """The shape of our ``CLIPText`` without the last ``skip`` layers and without its tokenizer."""
    model = settings.get("model_cfg")
    if not isinstance(model, dict) or not isinstance(model.get("text_cfg"), dict):
        raise UserError(f"{where / FILES.config} has no model_cfg with a text_cfg; get the folder again.")
    text = model["text_cfg"]
    require(text, SAME, where)
    width = text.get("width", 512)
    return {
        "_target_": "oboro.model.CLIPText",
        "vocab_size": text.get("vocab_size", 49408),
        "length": text.get("context_length", 77),
        "dim": width,
        "depth": clip_text.kept_layers(text.get("layers", 12), skip, where),
        "heads": text.get("heads", 8),
        "mlp_dim": int(width * text.get("mlp_ratio", 4.0)),
        "quick_gelu": bool(model.get("quick_gelu", False)),
        "eps": (text.get("norm_kwargs") or {}).get("eps", 1e-5),
    }


def our_state(config: Mapping[str, Any], state: State, where: Path) -> State:
    """Of the weights of a CLIP without ``UNREAD``; layers that ``config`` leaves out are dropped."""
    state = {key.removeprefix(TOWER): value for key, value in state.items()}
    layers = {key: int(match[1]) for key in state if (match := LAYER.match(key))}
    return ours(config, {k: v for k, v in state.items() if layers.get(k, 0) < config["depth"]}, open_clip_names, where)


@of_others
def describe(folder: Path, tokenizer: Path, skip: int = 0) -> tuple[dict[str, Any], bytes]:
    """Configuration of the ``CLIPText`` of a folder, less its last ``skip`` layers, and the file of its tokenizer."""
    if not any((tokenizer / name).is_file() for name in clip_text.TOKENIZERS):
        raise UserError(
            f"{tokenizer} has no tokenizer.json, which OpenCLIP itself does not need; copy that of "
            "openai/clip-vit-large-patch14 there, whose tokens are the same."
        )
    return clip_text.tokenized(our_config(read_json(folder / FILES.config), skip, folder), tokenizer, PAD)


@of_others
def load(folder: Path, tokenizer: Path, skip: int = 0) -> tuple[dict[str, Any], State]:
    """Configuration and weights of the text tower in a folder with ``open_clip_config.json``."""
    config, content = describe(folder, tokenizer, skip)
    weights = read_weights(folder, *STEMS, wanted=lambda name: not name.removeprefix(TOWER).startswith(UNREAD))
    return config, {**our_state(config, weights, folder), "tokenizer": clip_text.as_buffer(content)}
