"""Files with LDM's names, read here and by diffusers' own converter, answer alike."""

import pytest
import torch
import yaml

from interop.tiny import LENGTH, WORDS, diffusers, draw, tokenizer
from oboro.base.errors import UserError
from oboro.condition import Text
from oboro.interop import ldm
from oboro.interop.pipeline import build

transformers = pytest.importorskip("transformers")
single_file = pytest.importorskip("diffusers.loaders.single_file_utils")

UNET = {
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [1],
    "num_heads": 2,
    "use_spatial_transformer": True,
    "context_dim": 12,
}
DD = {"double_z": True, "z_channels": 3, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2]}
TRAINING = {
    "linear_start": 0.00085,
    "linear_end": 0.012,
    "timesteps": 1000,
    "image_size": 8,
    "scale_factor": 0.3,
    "unet_config": {"params": UNET},
    "first_stage_config": {"params": {"embed_dim": 3, "ddconfig": {**DD, "num_res_blocks": 1, "attn_resolutions": []}}},
}
DIFFUSERS_UNET = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
DIFFUSERS_VAE = {
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "latent_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "scaling_factor": 0.3,
}


def shapes(names, module, widths):
    """Random weights under the names of LDM, where those of ``widths`` are 1×1 convolutions."""
    from oboro.interop.weights import theirs

    g = torch.Generator().manual_seed(0)
    drawn = {k: 0.2 * torch.randn(v.shape, generator=g) for k, v in module.state_dict().items() if names(k)}
    return {k: v[..., None, None] if any(w in k for w in widths) else v for k, v in theirs(drawn, names).items()}


def text_weights(open_clip: bool, layers: int):
    """A text tower in OpenAI's names as transformers writes them, or in OpenCLIP's own."""
    g = torch.Generator().manual_seed(1)
    sizes = {"1": (20, 12), "2": (12, 20)}
    prefix = ldm.OPEN_CLIP if open_clip else ldm.CLIP
    found = {}
    for i in range(layers):
        if open_clip:
            layer = {"attn.in_proj_weight": (36, 12), "attn.in_proj_bias": (36,), "attn.out_proj.weight": (12, 12)}
            layer |= {"attn.out_proj.bias": (12,), "mlp.c_fc.weight": sizes["1"], "mlp.c_fc.bias": (20,)}
            layer |= {"mlp.c_proj.weight": sizes["2"], "mlp.c_proj.bias": (12,)}
            norms, stem = ("ln_1", "ln_2"), f"transformer.resblocks.{i}."
        else:
            layer = {
                f"self_attn.{p}_proj.{e}": (12, 12)[: 2 - (e == "bias")]
                for p in ("q", "k", "v", "out")
                for e in ("weight", "bias")
            }
            layer |= {"mlp.fc1.weight": sizes["1"], "mlp.fc1.bias": (20,)}
            layer |= {"mlp.fc2.weight": sizes["2"], "mlp.fc2.bias": (12,)}
            norms, stem = ("layer_norm1", "layer_norm2"), f"encoder.layers.{i}."
        layer |= {f"{norm}.{e}": (12,) for norm in norms for e in ("weight", "bias")}
        found |= {f"{prefix}{stem}{key}": shape for key, shape in layer.items()}
    outer = (
        ("token_embedding.weight", "positional_embedding", "ln_final")
        if open_clip
        else (
            "embeddings.token_embedding.weight",
            "embeddings.position_embedding.weight",
            "final_layer_norm",
        )
    )
    found |= {f"{prefix}{outer[0]}": (len(WORDS), 12), f"{prefix}{outer[1]}": (LENGTH, 12)}
    found |= {f"{prefix}{outer[2]}.{e}": (12,) for e in ("weight", "bias")}
    return {key: 0.3 * torch.randn(shape, generator=g) for key, shape in found.items()}


def published(folder, open_clip=False):
    """A file with the names of LDM, its YAML and a tokenizer; what is read of it, and the weights."""
    tokenizer(folder / "tokenizer")
    layers = 3 if open_clip else 2
    state = text_weights(open_clip, layers)
    network = ldm.network_config(UNET, TABLE, LENGTH, folder)
    codec = ldm.codec_config(TRAINING["first_stage_config"]["params"], folder)
    from hydra.utils import instantiate

    names = ldm.network_names(1, [0], 2)
    made = instantiate(network, _convert_="all")
    state |= {f"{ldm.NETWORK}{k}": v for k, v in shapes(names, made, ("proj_in.weight", "proj_out.weight")).items()}
    made = instantiate(codec, _convert_="all")
    attention = [f"attn_1.{part}.weight" for part in ("q", "k", "v", "proj_out")]
    state |= {f"{ldm.FIRST_STAGE}{k}": v for k, v in shapes(ldm.first_stage_names(2), made, attention).items()}
    state |= {"betas": torch.zeros(1000), "model_ema.decay": torch.tensor(0.9)}
    torch.save({"state_dict": state, "global_step": 7}, folder / "model.ckpt")
    stage = {"params": {"layer": "penultimate"}} if open_clip else {}
    settings = {**TRAINING, "cond_stage_config": stage, "parameterization": "v" if open_clip else "eps"}
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": {"params": settings}}))
    return ldm.read(folder / "model.ckpt", folder / "model.yaml", folder / "tokenizer"), state


TABLE = {"_target_": "oboro.schedule.ScaledLinear"}


@pytest.fixture(scope="module")
def stable_diffusion_1(tmp_path_factory):
    return published(tmp_path_factory.mktemp("sd1"))


def test_the_network_is_what_diffusers_makes_of_the_file(stable_diffusion_1):
    found, state = stable_diffusion_1
    task = build(found)
    reference = diffusers.UNet2DConditionModel(**DIFFUSERS_UNET).eval().requires_grad_(False)
    reference.load_state_dict(single_file.convert_ldm_unet_checkpoint(dict(state), {**reference.config}))
    x, tokens, t = draw(2, 3, 8, 8), draw(2, LENGTH, 12), torch.tensor([3, 700])
    cond = {"text": Text(tokens, torch.ones(2, LENGTH, dtype=torch.bool), tokens[:, 0])}
    c_noise = task.denoiser.parameterization(*task.denoiser.schedule((t + 1) / 1000)).c_noise
    answer = task.denoiser.network(x, c_noise, cond)
    torch.testing.assert_close(answer, reference(x, t, tokens).sample, rtol=1e-4, atol=1e-4)


def test_the_autoencoder_is_what_diffusers_makes_of_the_file(stable_diffusion_1):
    found, state = stable_diffusion_1
    codec = build(found).codec
    reference = diffusers.AutoencoderKL(**DIFFUSERS_VAE).eval().requires_grad_(False)
    reference.load_state_dict(single_file.convert_ldm_vae_checkpoint(dict(state), {**reference.config}))
    x, z = draw(1, 3, 16, 16), draw(1, 3, 8, 8)
    torch.testing.assert_close(codec.encode(x), 0.3 * reference.encode(x).latent_dist.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(codec.decode(z), reference.decode(z / 0.3).sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("open_clip", [False, True])
def test_the_text_encoder_is_what_transformers_makes_of_the_file(open_clip, tmp_path):
    found, state = published(tmp_path, open_clip)
    encoder = build(found).conditioner.encoder
    config = transformers.CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=1,
        max_position_embeddings=LENGTH,
        hidden_act="gelu" if open_clip else "quick_gelu",
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        projection_dim=12,
    )
    reference = transformers.CLIPTextModel(config).eval().requires_grad_(False)
    if open_clip:
        weights = {}
        for key, value in state.items():
            if not key.startswith(ldm.OPEN_CLIP) or "resblocks.2." in key:
                continue
            key = key.removeprefix(ldm.OPEN_CLIP)
            for old, new in OPEN_TO_TRANSFORMERS:
                key = key.replace(old, new)
            if "in_proj" in key:
                parts = zip("qkv", value.chunk(3), strict=True)
                weights |= {key.replace("in_proj_", f"{p}_proj."): part for p, part in parts}
            else:
                weights[key] = value
    else:
        weights = {k.removeprefix(ldm.CLIP): v for k, v in state.items() if k.startswith(ldm.CLIP)}
    reference.load_state_dict(weights)
    ids = encoder.tokenize(["a dog", ""])
    torch.testing.assert_close(encoder(ids), reference(ids).last_hidden_state, rtol=1e-4, atol=1e-4)


OPEN_TO_TRANSFORMERS = [
    ("transformer.resblocks.", "encoder.layers."),
    ("token_embedding.weight", "embeddings.token_embedding.weight"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_final", "final_layer_norm"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    (".attn.", ".self_attn."),
    ("c_fc", "fc1"),
    ("c_proj", "fc2"),
]


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    import pickle

    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    (tmp_path / "model.ckpt").write_bytes(pickle.dumps({"state_dict": Harmful()}, protocol=2))
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": {"params": TRAINING}}))
    with pytest.raises(UserError, match="never built"):
        ldm.read(tmp_path / "model.ckpt", tmp_path / "model.yaml", tmp_path)
    assert not (tmp_path / "harm").exists()
