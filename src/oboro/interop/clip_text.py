"""transformers' ``CLIPTextModel`` with its tokenizer ↔ ``oboro.model.CLIPText``."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from oboro.errors import UserError
from oboro.interop.weights import ours, read_json, read_weights, require, theirs, write_json, write_weights
from oboro.model import CLIPText
from oboro.model.clip_text import open_tokenizer
from oboro.stored import State

STEMS = ("model", "pytorch_model")
PREFIX = "text_model."
OUTER = {
    "token": "embeddings.token_embedding",
    "position": "embeddings.position_embedding",
    "norm": "final_layer_norm",
}
BLOCK = {
    "norm1": ["layer_norm1"],
    "norm2": ["layer_norm2"],
    "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "proj": ["self_attn.out_proj"],
    "mlp1": ["mlp.fc1"],
    "mlp2": ["mlp.fc2"],
}
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
SPECIAL = "<|endoftext|>"


def names(name: str) -> list[str]:
    """The names of a weight of ours in a ``CLIPTextModel``."""
    if name == "tokenizer":
        return []
    stem, _, last = name.rpartition(".")
    if stem in OUTER:
        return [f"{PREFIX}{OUTER[stem]}.{last}"]
    n, part = re.fullmatch(r"blocks\.(\d+)\.(\w+)", stem).groups()
    return [f"{PREFIX}encoder.layers.{n}.{their}.{last}" for their in BLOCK[part]]


def our_config(config: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """The shape of our ``CLIPText``, without its tokenizer."""
    config = config.get("text_config") or config
    if config.get("hidden_act", "quick_gelu") not in ACTIVATIONS:
        raise UserError(f"{where} has hidden_act={config['hidden_act']}, which is unknown here; choose another model.")
    return {
        "_target_": "oboro.model.CLIPText",
        "vocab_size": config["vocab_size"],
        "length": config["max_position_embeddings"],
        "dim": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "mlp_dim": config["intermediate_size"],
        "quick_gelu": ACTIVATIONS[config.get("hidden_act", "quick_gelu")],
        "eps": config.get("layer_norm_eps", 1e-5),
    }


def our_state(config: Mapping[str, Any], state: State, where: str | Path) -> State:
    """Of weights with or without ``text_model.`` before their names; projections are not read by Stable Diffusion."""
    state = {PREFIX + key.removeprefix(PREFIX): value for key, value in state.items()}
    left_out = (f"{PREFIX}embeddings.position_ids", f"{PREFIX}text_projection.weight", f"{PREFIX}logit_scale")
    state = {k: v for k, v in state.items() if k not in left_out and not k.startswith(f"{PREFIX}vision_model.")}
    return ours(config, state, names, where)


def read_tokenizer(folder: Path) -> tuple[bytes, str]:
    """tokenizer.json, and the token that pads. Older folders have vocab.json and merges.txt, which transformers reads.

    Raises ``UserError`` where neither is there, or transformers is not.
    """
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    pad = settings.get("pad_token") or SPECIAL
    pad = pad["content"] if isinstance(pad, dict) else pad
    if (folder / "tokenizer.json").is_file():
        return (folder / "tokenizer.json").read_bytes(), pad
    if not (folder / "vocab.json").is_file():
        raise UserError(f"{folder} has no tokenizer.json and no vocab.json with merges.txt; get the folder again.")
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise UserError(
            f'{folder} has no tokenizer.json, which transformers makes of vocab.json; pip install "oboro[clip]".'
        ) from error
    return CLIPTokenizer.from_pretrained(folder).backend_tokenizer.to_str().encode(), pad


def with_tokenizer(config: Mapping[str, Any], state: State, folder: Path) -> tuple[dict[str, Any], State]:
    """The tokenizer of ``folder`` added. Raises ``UserError`` where it names more tokens than there are embeddings."""
    content, pad = read_tokenizer(folder)
    vocabulary = open_tokenizer(content).get_vocab()
    if not {SPECIAL, pad} <= set(vocabulary) or max(vocabulary.values()) >= config["vocab_size"]:
        raise UserError(f"the tokenizer in {folder} is of another model than its text encoder; get both again.")
    config = {
        **config,
        "tokenizer_bytes": len(content),
        "end": vocabulary[SPECIAL],
        "pad": vocabulary[pad],
    }
    return config, {**state, "tokenizer": torch.tensor(list(content), dtype=torch.uint8)}


def load(encoder: str | Path, tokenizer: str | Path) -> tuple[dict[str, Any], State]:
    """Configuration and weights of a ``CLIPText`` from the folders of a ``CLIPTextModel`` and its tokenizer."""
    encoder, tokenizer = Path(encoder).expanduser(), Path(tokenizer).expanduser()
    found = read_json(encoder / "config.json")
    require(found, {"architectures": found.get("architectures"), "attention_dropout": 0.0}, encoder)
    config = our_config(found, encoder)
    stem = (
        STEMS[0]
        if any((encoder / f"{STEMS[0]}.{e}").is_file() for e in ("safetensors", "safetensors.index.json"))
        else STEMS[1]
    )
    # The shape is known before the tokenizer is, whose length in bytes no weight depends on.
    state = our_state({**config, "tokenizer_bytes": 0, "end": 0, "pad": 0}, read_weights(encoder, stem), encoder)
    return with_tokenizer(config, state, tokenizer)


@torch.no_grad()
def empty_text(config: Mapping[str, Any], state: State) -> Tensor:
    """What the encoder says of the empty text, (length, dim)."""
    encoder = instantiate(config)
    encoder.load_state_dict(state)
    return encoder.eval().encode_tokens([""])[0][0]


def save(encoder: Path, tokenizer: Path, config: Mapping[str, Any], model: CLIPText) -> None:
    """``model``, which ``config`` describes in full, as the folders of a ``CLIPTextModel`` and a ``CLIPTokenizer``."""
    content = bytes(model.tokenizer.tolist())
    made = open_tokenizer(content)
    start = made.encode("").ids[0]
    shape = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": config["length"],
        "hidden_size": config["dim"],
        "num_hidden_layers": config["depth"],
        "num_attention_heads": config["heads"],
        "intermediate_size": config["mlp_dim"],
        "hidden_act": "quick_gelu" if config["quick_gelu"] else "gelu",
        "layer_norm_eps": config["eps"],
        "attention_dropout": 0.0,
        "bos_token_id": start,
        "eos_token_id": config["end"],
        "pad_token_id": config["pad"],
    }
    write_json(encoder / "config.json", shape)
    write_weights(encoder / "model.safetensors", theirs(model.state_dict(), names))
    tokenizer.mkdir(parents=True, exist_ok=True)
    (tokenizer / "tokenizer.json").write_bytes(content)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": config["length"], "unk_token": SPECIAL}
    tokens = {"bos_token": made.id_to_token(start), "eos_token": SPECIAL, "pad_token": made.id_to_token(config["pad"])}
    write_json(tokenizer / "tokenizer_config.json", {**settings, **tokens})
