"""transformers' ``CLIPTextModel`` with its tokenizer ↔ ``oboro.model.CLIPText``."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from oboro.base.errors import UserError
from oboro.interop.hub import Files, weight_files
from oboro.interop.state import read_small
from oboro.interop.weights import of_others, ours, read_json, read_weights, require, theirs, write_json, write_weights
from oboro.model import CLIPText
from oboro.model.clip_text import open_tokenizer
from oboro.restore import State

STEMS = ("model", "pytorch_model")
TOKENIZERS, MARKS = ("tokenizer.json", "vocab.json"), ("tokenizer_config.json", "merges.txt")
FILES = Files("config.json", weight_files(*STEMS), TOKENIZERS, MARKS)
PREFIX = "text_model."
LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")
UNREAD = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")  # the rest of a whole CLIP
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


def kept_layers(layers: int, skip: int, where: str | Path) -> int:
    """How many of ``layers`` are left without the last ``skip``. ``UserError`` where that is none, or more than all."""
    if not 0 <= skip < layers:
        raise UserError(f"{where} has {layers} layers; set conditioner.encoder.skip to one of 0 to {layers - 1}.")
    return layers - skip


def our_config(config: Mapping[str, Any], skip: int, where: str | Path) -> dict[str, Any]:
    """The shape of our ``CLIPText``, without its tokenizer; what is missing is as in transformers."""
    if config.get("model_type") not in (None, "clip", "clip_text_model"):
        raise UserError(f"{where} holds a {config['model_type']} and no CLIP; give the folder of a CLIPTextModel.")
    config = config.get("text_config") or config
    if config.get("hidden_act", "quick_gelu") not in ACTIVATIONS:
        raise UserError(f"{where} has hidden_act={config['hidden_act']}, which is unknown here; choose another model.")
    return {
        "_target_": "oboro.model.CLIPText",
        "vocab_size": config.get("vocab_size", 49408),
        "length": config.get("max_position_embeddings", 77),
        "dim": config.get("hidden_size", 512),
        "depth": kept_layers(config.get("num_hidden_layers", 12), skip, where),
        "heads": config.get("num_attention_heads", 8),
        "mlp_dim": config.get("intermediate_size", 2048),
        "quick_gelu": ACTIVATIONS[config.get("hidden_act", "quick_gelu")],
        "eps": config.get("layer_norm_eps", 1e-5),
    }


def our_state(config: Mapping[str, Any], state: State, where: str | Path) -> State:
    """Of weights with or without ``text_model.`` before their names; layers that ``config`` leaves out are dropped."""
    state = {PREFIX + key.removeprefix(PREFIX): value for key, value in state.items()}
    state.pop(f"{PREFIX}embeddings.position_ids", None)
    layers = {key: int(match[1]) for key in state if (match := LAYER.match(key))}
    return ours(config, {k: v for k, v in state.items() if layers.get(k, 0) < config["depth"]}, names, where)


def read_tokenizer(folder: Path) -> tuple[bytes, str]:
    """tokenizer.json, and the token that pads. Older folders have vocab.json and merges.txt, which transformers reads.

    Raises ``UserError`` where neither is there, or transformers is not.
    """
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    pad = settings.get("pad_token") or SPECIAL
    pad = pad["content"] if isinstance(pad, dict) else pad
    if (folder / "tokenizer.json").is_file():
        return read_small(folder / "tokenizer.json"), pad
    if not (folder / "vocab.json").is_file():
        raise UserError(f"{folder} has no tokenizer.json and no vocab.json with merges.txt; get the folder again.")
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise UserError(
            f'{folder} has no tokenizer.json, which transformers makes of vocab.json; pip install "oboro[clip]".'
        ) from error
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer.to_str().encode(), pad


def tokenized(config: Mapping[str, Any], folder: Path, pad: int | None = None) -> tuple[dict[str, Any], bytes]:
    """``config`` with what the tokenizer of ``folder`` has, and its file; ``pad`` replaces the id that it pads with.

    Raises ``UserError`` where it names more tokens than there are embeddings.
    """
    content, padding = read_tokenizer(folder)
    vocabulary = open_tokenizer(content).get_vocab()
    if not {SPECIAL, padding} <= set(vocabulary) or max(vocabulary.values()) >= config["vocab_size"]:
        raise UserError(f"the tokenizer in {folder} is of another model than its text encoder; get both again.")
    marks = {"end": vocabulary[SPECIAL], "pad": vocabulary[padding] if pad is None else pad}
    return {**config, "tokenizer_bytes": len(content), **marks}, content


def as_buffer(content: bytes) -> Tensor:
    """A file as a buffer of a module."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def with_tokenizer(config: Mapping[str, Any], state: State, folder: Path) -> tuple[dict[str, Any], State]:
    """Configuration and weights with the tokenizer of ``folder``."""
    made, content = tokenized(config, folder)
    return made, {**state, "tokenizer": as_buffer(content)}


@of_others
def describe(encoder: Path, tokenizer: Path, skip: int = 0) -> tuple[dict[str, Any], bytes]:
    """Configuration of the ``CLIPText`` of a folder, less its last ``skip`` layers, and the file of its tokenizer."""
    settings = read_json(encoder / FILES.config)
    require(settings, {"attention_dropout": 0.0}, encoder)
    return tokenized(our_config(settings, skip, encoder), tokenizer)


@of_others
def load(encoder: str | Path, tokenizer: str | Path, skip: int = 0) -> tuple[dict[str, Any], State]:
    """Configuration and weights of a ``CLIPText`` from the folders of a ``CLIPTextModel`` and its tokenizer.

    ``skip`` layers at the end are left out. A whole ``CLIPModel`` may be in the place of its text encoder.
    """
    encoder, tokenizer = Path(encoder).expanduser(), Path(tokenizer).expanduser()
    config, content = describe(encoder, tokenizer, skip)
    weights = read_weights(encoder, *STEMS, wanted=lambda name: not name.removeprefix(PREFIX).startswith(UNREAD))
    return config, {**our_state(config, weights, encoder), "tokenizer": as_buffer(content)}


@torch.no_grad()
def empty_text(config: Mapping[str, Any], state: State) -> Tensor:
    """The output of the encoder for the empty text, (length, dim)."""
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
