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
