"""Tiny models of diffusers with random weights, float32: published checkpoints are of that precision."""

import json
from pathlib import Path

import pytest
import safetensors.torch
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


TOWER = {"context_length": LENGTH, "vocab_size": len(WORDS), "width": 12, "heads": 2, "layers": 3, "mlp_ratio": 1.7}
WHOLE = {
    "embed_dim": 8,
    "vision_cfg": {"layers": 1, "width": 64, "patch_size": 16, "image_size": 32},
    "text_cfg": TOWER,
}
TO_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def in_open_clip(model):
    """The weights of a ``CLIPTextModel`` as OpenCLIP names and stacks them, with others of a whole CLIP."""
    theirs = {name.removeprefix("text_model."): value for name, value in model.state_dict().items()}
    found = {
        "token_embedding.weight": theirs["embeddings.token_embedding.weight"],
        "positional_embedding": theirs["embeddings.position_embedding.weight"],
        "text_projection": torch.ones(12, 8),
        "ln_final.weight": theirs["final_layer_norm.weight"],
        "ln_final.bias": theirs["final_layer_norm.bias"],
    }
    for n in range(model.config.num_hidden_layers):
        ours, here = f"transformer.resblocks.{n}.", f"encoder.layers.{n}."
        for end in ("weight", "bias"):
            stacked = torch.cat([theirs[f"{here}self_attn.{part}_proj.{end}"] for part in "qkv"])
            found[f"{ours}attn.in_proj_{end}"] = stacked
            found |= {f"{ours}{new}.{end}": theirs[f"{here}{old}.{end}"] for old, new in TO_OPEN_CLIP.items()}
    return found


def open_clip(folder: Path, state=None, prefix="", as_safetensors=False, settings=WHOLE):
    """A folder as OpenCLIP's hub has it, of a text tower of three layers and some of the rest of a CLIP."""
    state = in_open_clip(clip(num_hidden_layers=3)) if state is None else state
    whole = {"visual.conv1.weight": torch.ones(2), "logit_scale": torch.ones(()), "logit_bias": torch.ones(())}
    state = {prefix + name: value for name, value in state.items()} | whole
    folder.mkdir(parents=True, exist_ok=True)
    if as_safetensors:
        safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    else:
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": {}}))
    tokenizer(folder)
    return folder
