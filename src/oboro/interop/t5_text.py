"""transformers' ``T5EncoderModel``, or the encoder of a whole T5, with its tokenizer ↦ ``oboro.model.T5Text``."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from oboro.base.errors import UserError
from oboro.interop.clip_text import as_buffer
from oboro.interop.hub import Files, weight_files
from oboro.interop.state import read_small
from oboro.interop.weights import of_others, ours, read_json, read_weights, require
from oboro.model.clip_text import open_tokenizer
from oboro.restore import State

STEMS = ("model", "pytorch_model")
FILES = Files("config.json", weight_files(*STEMS), ("tokenizer.json", "spiece.model"), ("tokenizer_config.json",))
SHARED, TIED = "shared.weight", "encoder.embed_tokens.weight"  # two names of one table; a file has either or both
OUTER = {
    "token": "shared",
    "relative": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "norm": "encoder.final_layer_norm",
}
GATED = {"relu": False, "gated-gelu": True}


def t5_names(gated: bool) -> Callable[[str], list[str]]:
    """The names in a ``T5EncoderModel`` of a weight of our ``T5Text``."""
    block = {
        "norm1": ["0.layer_norm"],
        "qkv": [f"0.SelfAttention.{part}" for part in "qkv"],
        "proj": ["0.SelfAttention.o"],
        "norm2": ["1.layer_norm"],
        "mlp1": [f"1.DenseReluDense.{part}" for part in (("wi_0", "wi_1") if gated else ("wi",))],
        "mlp2": ["1.DenseReluDense.wo"],
    }

    def names(name: str) -> list[str]:
        if name == "tokenizer":
            return []
        stem, _, last = name.rpartition(".")
        if stem in OUTER:
            return [f"{OUTER[stem]}.{last}"]
        n, part = re.fullmatch(r"blocks\.(\d+)\.(\w+)", stem).groups()
        return [f"encoder.block.{n}.layer.{their}.{last}" for their in block[part]]

    return names


def our_config(config: Mapping[str, Any], length: int, where: Path) -> dict[str, Any]:
    """The shape of our ``T5Text``, without its tokenizer; what is missing is as in transformers.

    Raises ``UserError`` for another kind of model, such as UMT5, or another MLP.
    """
    require({"model_type": None, **config}, {"model_type": "t5"}, where)
    feed_forward = config.get("feed_forward_proj", "relu")
    if feed_forward not in GATED:
        raise UserError(
            f"{where} has feed_forward_proj={feed_forward} and only {' and '.join(GATED)} can be had; choose another "
            "model."
        )
    if length < 1:
        raise UserError(f"a text of {length} tokens is empty; set conditioner.encoder.length to 1 or more.")
    return {
        "_target_": "oboro.model.T5Text",
        "vocab_size": config.get("vocab_size", 32128),
        "length": length,
        "dim": config.get("d_model", 512),
        "depth": config.get("num_layers", 6),
        "heads": config.get("num_heads", 8),
        "head_dim": config.get("d_kv", 64),
        "mlp_dim": config.get("d_ff", 2048),
        "pad": config.get("pad_token_id", 0),
        "gated": GATED[feed_forward],
        "buckets": config.get("relative_attention_num_buckets", 32),
        "max_distance": config.get("relative_attention_max_distance", 128),
        "eps": config.get("layer_norm_epsilon", 1e-6),
    }


def read_tokenizer(folder: Path) -> bytes:
    """tokenizer.json. Older folders have a spiece.model, which transformers reads.

    Raises ``UserError`` where neither is there, or the libraries are not.
    """
    if (folder / "tokenizer.json").is_file():
        return read_small(folder / "tokenizer.json")
    if not (folder / "spiece.model").is_file():
        raise UserError(f"{folder} has no tokenizer.json and no spiece.model; get the folder again.")
    try:
        import google.protobuf  # noqa: F401
        import sentencepiece  # noqa: F401
        from transformers import T5Tokenizer
    except ImportError as error:
        raise UserError(
            f'{folder} has no tokenizer.json, which transformers makes of spiece.model; pip install "oboro[t5]".'
        ) from error
    return T5Tokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer.to_str().encode()


@of_others
def describe(encoder: Path, tokenizer: Path, length: int) -> tuple[dict[str, Any], bytes]:
    """Configuration of the ``T5Text`` of a folder, and the file of its tokenizer.

    Raises ``UserError`` where the tokenizer names more tokens than there are embeddings, or does not end a text.
    """
    settings = read_json(encoder / FILES.config)
    config = our_config(settings, length, encoder)
    content = read_tokenizer(tokenizer)
    made = open_tokenizer(content)
    made.no_padding()  # the file may pad texts
    largest = max(made.get_vocab().values())
    if largest >= config["vocab_size"] or made.encode("").ids != [settings.get("eos_token_id", 1)]:
        raise UserError(f"the tokenizer in {tokenizer} is of another model than its text encoder; get both again.")
    return {**config, "tokenizer_bytes": len(content)}, content


@of_others
def load(encoder: Path, tokenizer: Path, length: int) -> tuple[dict[str, Any], State]:
    """Configuration and weights of a ``T5Text`` from the folders of a T5 and its tokenizer; its decoder is not read."""
    config, content = describe(encoder, tokenizer, length)
    state = read_weights(encoder, *STEMS, wanted=lambda name: name.startswith(("encoder.", SHARED)))
    tied = state.pop(TIED, None)
    if tied is not None:
        state.setdefault(SHARED, tied)
    return config, {**ours(config, state, t5_names(config["gated"]), encoder), "tokenizer": as_buffer(content)}
