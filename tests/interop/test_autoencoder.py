"""A published autoencoder gives here what it gives in diffusers."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from interop.tiny import autoencoder, diffusers, draw
from oboro.base.errors import UserError
from oboro.codec import Diffusers
from oboro.interop import autoencoder as interop
from oboro.restore import inlined, load_parts

CONF = Path(__file__).resolve().parents[2] / "conf"
VARIANTS = {
    "stable_diffusion": {},
    "no_quant_convolution": {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1},
    "statistics_by_channel": {"latents_mean": [0.1, 0.2, 0.3], "latents_std": [1.0, 2.0, 0.5]},
    "no_attention": {"mid_block_add_attention": False, "layers_per_block": 2},
}


def build(config, state):
    codec = instantiate(config, _convert_="all").eval()
    codec.load_state_dict(state)
    return codec


@pytest.mark.parametrize("name", VARIANTS)
def test_latents_and_images_are_those_of_diffusers(name, tmp_path):
    published = autoencoder(**VARIANTS[name])
    published.save_pretrained(tmp_path)
    codec = build(*Diffusers(str(tmp_path)).load())
    x, config = draw(2, 3, 16, 16), published.config
    mean = torch.tensor(config.latents_mean or [config.shift_factor or 0.0] * 3)[:, None, None]
    std = torch.tensor(config.latents_std or [1.0] * 3)[:, None, None]
    latent = published.encode(x).latent_dist.mean
    torch.testing.assert_close(codec.latent(x), latent, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(codec.encode(x), (latent - mean) * config.scaling_factor / std, rtol=1e-4, atol=1e-4)
    z = draw(2, 3, 8, 8, seed=2)
    decoded = published.decode(z / config.scaling_factor * std + mean).sample
    torch.testing.assert_close(codec.decode(z), decoded, rtol=1e-4, atol=1e-4)


def test_names_of_attention_in_old_files_are_understood(tmp_path):
    from safetensors.torch import load_file, save_file

    published = autoencoder()
    published.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(key):
        for part, before in new.items():
            key = key.replace(f"attentions.0.{part}.", f"attentions.0.{before}.")
        return key

    save_file({old(key): value for key, value in load_file(file).items()}, file)
    assert build(*interop.load(tmp_path)).latent(draw(1, 3, 16, 16)).isfinite().all()
    torch.testing.assert_close(
        build(*interop.load(tmp_path)).latent(draw(1, 3, 16, 16)), published.encode(draw(1, 3, 16, 16)).latent_dist.mean
    )


def test_what_goes_out_comes_back_bit_for_bit(tmp_path):
    autoencoder(shift_factor=0.25).save_pretrained(tmp_path / "in")
    config, state = interop.load(tmp_path / "in")
    codec = build(config, state)
    interop.save(tmp_path / "out", config, codec, 16)
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path / "out")
    original = diffusers.AutoencoderKL.from_pretrained(tmp_path / "in")
    assert again.state_dict().keys() == original.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in original.state_dict().items())
    assert (again.config.scaling_factor, again.config.shift_factor) == pytest.approx((0.3, 0.25))


def test_the_option_makes_it_the_codec_of_a_run(tmp_path):
    autoencoder().save_pretrained(tmp_path)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=["+codec=diffusers", f"codec.path={tmp_path}"])
    plain = OmegaConf.to_container(config, resolve=True)
    assert plain["codec"]["channels"] == 3
    plain, parts = inlined(plain)
    made = torch.nn.ModuleDict({"codec": instantiate(plain["codec"], _convert_="all")})
    load_parts(made, parts)
    assert made["codec"].latent_std.tolist() == pytest.approx([1 / 0.3] * 3)


@pytest.mark.parametrize(("key", "value"), [("act_fn", "relu"), ("_class_name", "VQModel"), ("out_channels", 1)])
def test_what_cannot_be_expressed_is_refused_by_its_key(key, value, tmp_path):
    autoencoder().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=f"{key}='?{value}"):
        interop.load(tmp_path)


def test_a_folder_without_weights_or_with_other_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no"):
        interop.load(tmp_path)
    autoencoder().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layers_per_block": 2}))
    with pytest.raises(UserError, match="has no weight"):
        interop.load(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="get it again"):
        interop.load(tmp_path)
