"""Tiny models of diffusers with random weights, float32: published checkpoints are of that precision."""

from pathlib import Path

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["<|startoftext|>", "<|endoftext|>", "!", *LETTERS, *(f"{c}</w>" for c in LETTERS), "og</w>"]
LENGTH = 6


def scramble(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter drawn anew, so that none is 0 or 1 and a swap of two shows."""
    g = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.2 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return module.eval().requires_grad_(False)


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def autoencoder(**changes):
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    size = {"block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1, "latent_channels": 3}
    return scramble(diffusers.AutoencoderKL(**{**blocks, **size, "scaling_factor": 0.3, **changes}))


def tokenizer(folder: Path, pad="<|endoftext|>"):
    made = transformers.CLIPTokenizer(
        vocab={word: i for i, word in enumerate(WORDS)},
        merges=[("o", "g</w>")],
        pad_token=pad,
        model_max_length=LENGTH,
    )
    made.save_pretrained(folder)
    return made


def clip(**changes):
    sizes = {"vocab_size": len(WORDS), "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2}
    marks = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.CLIPTextConfig(
        **{**sizes, **marks, "num_attention_heads": 2, "max_position_embeddings": LENGTH, **changes}
    )
    return scramble(transformers.CLIPTextModel(config))


def t5_tokenizer(folder: Path):
    """Pieces of a few words, as a tokenizer.json."""
    pieces = ["▁a", "▁the", "do", "ca", "g", "t", "▁", *LETTERS[1:6], "o", ",", "▁two"]
    scores = [(mark, 0.0) for mark in ("<pad>", "</s>", "<unk>")] + [(p, -1.0 - i / 4) for i, p in enumerate(pieces)]
    made = transformers.T5Tokenizer(vocab=scores, extra_ids=2, model_max_length=LENGTH)
    made.save_pretrained(folder)
    return made


def t5(kind="T5EncoderModel", **changes):
    """``d_kv`` times the number of heads is not ``d_model``, as in Flan-T5 small."""
    sizes = {"vocab_size": 40, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_heads": 3}
    config = transformers.T5Config(**{**sizes, "feed_forward_proj": "gated-gelu", **changes})
    model = getattr(transformers, kind)(config)
    model.tie_weights()
    return scramble(model)
