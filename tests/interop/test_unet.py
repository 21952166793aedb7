"""A published U-Net answers here what it answers in diffusers."""

import json
from functools import partial

import pytest
import torch
from hydra.utils import instantiate

from interop.tiny import diffusers, draw, scramble
from oboro.base.errors import UserError
from oboro.condition import Condition, Label, Text
from oboro.denoiser import Denoiser
from oboro.interop import schedule as schedules
from oboro.interop import unet as interop
from oboro.interop.pipeline import in_full

close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
STEPS = (0, 1, 17, 500, 999)
TEXT = 6  # tokens
SIZES = {"sample_size": 8, "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1}


def pixels(**changes):
    types = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
    return scramble(diffusers.UNet2DModel(**{**SIZES, **types, "attention_head_dim": 4, **changes}))


def text(**changes):
    types = {
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    }
    settings = {"cross_attention_dim": 12, "attention_head_dim": [2, 4], "in_channels": 4, "out_channels": 4}
    return scramble(diffusers.UNet2DConditionModel(**{**SIZES, **types, **settings, **changes}))


PIXELS = {
    "default": {},
    "ddpm_cifar10": {
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "attention_head_dim": None,
        "norm_eps": 1e-6,
    },
    "scale_shift": {"resnet_time_scale_shift": "scale_shift", "add_attention": False, "layers_per_block": 2},
    "learned_variance": {"out_channels": 6},
}
TEXTS = {
    "stable_diffusion_1": {"layers_per_block": 2, "attention_head_dim": 2},
    "stable_diffusion_2": {"use_linear_projection": True, "upcast_attention": True},
    "deeper": {"transformer_layers_per_block": 2},
}


def scheduler(**changes):
    return {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, **changes}


def imported(published, folder, settings=None):
    """The network here, and its configuration."""
    published.save_pretrained(folder)
    table = schedules.our_schedule(settings or scheduler(), "here")
    config, state = interop.load(folder, table, TEXT)
    network = instantiate(config, _convert_="all").eval()
    network.load_state_dict(state, strict="text_dim" not in config)
    return network, config


def denoiser_of(network, config, prediction="epsilon"):
    parameterization = schedules.our_parameterization({"prediction_type": prediction}, "here")
    return Denoiser(network, instantiate(config["noise"]["table"]), instantiate(parameterization)).requires_grad_(False)


@pytest.mark.parametrize("name", PIXELS)
def test_the_network_of_pixels_is_that_of_diffusers(name, tmp_path):
    published = pixels(**PIXELS[name])
    network, config = imported(published, tmp_path)
    denoiser, x = denoiser_of(network, config), draw(len(STEPS), 3, 8, 8)
    index = torch.tensor(STEPS)
    t = denoiser.schedule.t_of_index(index).float()
    c_noise = denoiser.parameterization(*denoiser.schedule(t)).c_noise
    assert network.noise.index(c_noise).tolist() == list(STEPS)
    close(network(x, c_noise, {}), published(x, index).sample)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", TEXTS)
def test_with_text_x0_is_that_of_diffusers(name, prediction, tmp_path):
    """x̂0 of both, at several levels of the table: network, table and parameterization together."""
    published = text(**TEXTS[name])
    network, config = imported(published, tmp_path)
    denoiser, x, tokens = denoiser_of(network, config, prediction), draw(5, 4, 8, 8), draw(5, TEXT, 12, seed=3)
    made = diffusers.DDIMScheduler(**scheduler(prediction_type=prediction, clip_sample=False))
    made.set_timesteps(1000)
    cond = Condition.of(text=Text(tokens, torch.ones(5, TEXT, dtype=torch.bool), tokens[:, 0]))
    t = denoiser.schedule.t_of_index(torch.tensor(STEPS)).float()
    x0 = denoiser(x, t, cond)
    for k, step in enumerate(STEPS):
        said = published(x[k : k + 1], step, tokens[k : k + 1]).sample
        theirs = made.step(said, step, x[k : k + 1]).pred_original_sample
        close(x0[k : k + 1] * made.alphas_cumprod[step] ** 0.5, theirs * made.alphas_cumprod[step] ** 0.5)


LAYOUTS = {
    "fp16": {"variant": "fp16"},
    "fp16 in shards": {"variant": "fp16", "max_shard_size": "20KB"},
    "pickles of fp16 in shards": {"variant": "fp16", "max_shard_size": "20KB", "safe_serialization": False},
    "shards": {"max_shard_size": "20KB"},
    "a pickle": {"safe_serialization": False},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_weights_may_lie_in_any_layout_of_diffusers(layout, tmp_path):
    """Also of the hub's cache; values that fp16 has are read exactly."""
    published = pixels().half()
    snapshot = tmp_path / "models--somebody--unet" / "snapshots" / "1a2b"
    published.save_pretrained(snapshot, **layout)
    assert len(list(snapshot.iterdir())) > 2 or "max_shard_size" not in layout
    table = schedules.our_schedule(scheduler(), "here")
    _, found = interop.load(tmp_path / "models--somebody--unet", table)
    published.float().save_pretrained(tmp_path / "plain")
    _, expected = interop.load(tmp_path / "plain", table)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_no_text_is_the_encoding_of_the_empty_text(tmp_path):
    published = text()
    network, _ = imported(published, tmp_path)
    empty, tokens, x, c_noise = draw(TEXT, 12, seed=4), draw(2, TEXT, 12), draw(2, 4, 8, 8), torch.tensor([0.1, 0.4])
    network.empty_text.tokens.copy_(empty)
    mask = torch.tensor([[True] * TEXT, [False] * TEXT])
    told = network(x, c_noise, {"text": Text(tokens, mask, tokens[:, 0])})
    index = network.noise.index(c_noise)
    close(told, published(x, index, torch.stack([tokens[0], empty])).sample)
    close(network(x, c_noise, {}), published(x, index, empty.expand(2, -1, -1)).sample)


@pytest.mark.parametrize("length", [TEXT - 2, TEXT + 3])
def test_texts_may_be_of_another_length_than_the_empty_one(length, tmp_path):
    """The shorter of both is filled up with what nobody attends to."""
    published = text()
    network, _ = imported(published, tmp_path)
    empty, tokens, x, c_noise = draw(TEXT, 12, seed=4), draw(2, length, 12), draw(2, 4, 8, 8), torch.tensor([0.1, 0.4])
    network.empty_text.tokens.copy_(empty)
    mask = torch.tensor([[True] * length, [False] * length])
    told = network(x, c_noise, {"text": Text(tokens, mask, tokens[:, 0])})
    index = network.noise.index(c_noise)
    close(told[:1], published(x[:1], index[:1], tokens[:1]).sample)
    close(told[1:], published(x[1:], index[1:], empty[None]).sample)


def test_labels_are_those_of_diffusers_and_a_dropped_one_adds_nothing(tmp_path):
    published = pixels(num_class_embeds=3)
    network, _ = imported(published, tmp_path)
    x, c_noise, label = draw(3, 3, 8, 8), torch.full((3,), 0.2), torch.tensor([2, 0, -1])
    index = network.noise.index(c_noise)
    told = network(x, c_noise, {"label": Label(label)})
    close(told[:2], published(x[:2], index[:2], label[:2]).sample)
    published.class_embedding.weight.zero_()
    close(told[2:], published(x[2:], index[2:], torch.tensor([0])).sample)


@pytest.mark.parametrize("make", [pixels, text])
@pytest.mark.parametrize(("key", "value"), [("attention_head_dim", 8), ("norm_num_groups", 2), ("freq_shift", 1)])
def test_what_goes_out_comes_back_with_equal_answers(make, key, value, tmp_path):
    published = make(**{key: value})
    network, config = imported(published, tmp_path / "in")
    interop.save(tmp_path / "out", in_full(config), network, 8)
    again = type(published).from_pretrained(tmp_path / "out").eval()
    x = draw(1, published.config.in_channels, 8, 8)
    extra = (draw(1, TEXT, 12),) if config["text_dim"] else ()
    torch.testing.assert_close(again(x, 7, *extra).sample, published(x, 7, *extra).sample, rtol=1e-5, atol=1e-5)


REFUSED = [
    (pixels, "act_fn", "relu"),
    (pixels, "time_embedding_type", "fourier"),
    (pixels, "down_block_types", ["DownBlock2D", "SkipDownBlock2D"]),
    (pixels, "up_block_types", ["UpBlock2D", "UpBlock2D"]),
    (pixels, "resnet_time_scale_shift", "scale_shift"),
    (text, "addition_embed_type", "text_time"),
    (text, "cross_attention_dim", [12, 12]),
    (text, "in_channels", 9),
]


@pytest.mark.parametrize(("make", "key", "value"), REFUSED, ids=[case[1] for case in REFUSED])
def test_what_cannot_be_expressed_is_refused_by_its_key(make, key, value, tmp_path):
    make().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match="out_channels" if key == "in_channels" else key):
        interop.load(tmp_path, schedules.our_schedule(scheduler(), "here"))


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_a_table_of_diffusers_is_ours_at_every_point(kind):
    settings = scheduler(beta_schedule=kind)
    made = instantiate(schedules.our_schedule(settings, "here"))
    alpha, sigma = made(made.t_of_index(torch.arange(1000)))
    theirs = diffusers.DDIMScheduler(**settings).alphas_cumprod.double()
    torch.testing.assert_close(alpha**2, theirs, rtol=2e-4, atol=1e-7)
    torch.testing.assert_close(sigma**2, 1 - theirs, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("key", ["trained_betas", "rescale_betas_zero_snr", "beta_schedule"])
def test_other_tables_are_refused(key):
    with pytest.raises(UserError, match=key):
        schedules.our_schedule(scheduler(**{key: [0.1]}), "here")
