"""A published ControlNet answers here what it answers in diffusers, and goes back the same."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from interop.test_pipeline import DDIM, STEPS, drawn, first_noise
from interop.test_unet import text
from interop.tiny import autoencoder, clip, diffusers, draw, scramble, tokenizer
from oboro.base.errors import UserError
from oboro.condition import Condition, Control, Text
from oboro.interop.__main__ import main
from oboro.interop.controlnet import load_controlnet
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.rebuild import build_task

TOKENS = 6
KINDS = {
    "stable_diffusion_1": {"attention_head_dim": 2, "layers_per_block": 2},
    "stable_diffusion_2": {"attention_head_dim": [2, 4], "use_linear_projection": True},
    "deeper": {"transformer_layers_per_block": 2, "attention_head_dim": 2, "conditioning_channels": 1},
}
FACTOR = 2  # of the tiny autoencoder
SHORT = ("sampler.steps=2", "sampler/grid=uniform")


def controlnet(network, channels=3):
    """One that diffusers makes for ``network``, with random weights."""
    settings = {"conditioning_embedding_out_channels": (4, 6), "conditioning_channels": channels}
    return scramble(diffusers.ControlNetModel.from_unet(network, **settings), seed=5)


@pytest.fixture(scope="module", params=KINDS)
def published(request, tmp_path_factory):
    """A pipeline and a ControlNet in folders, the networks themselves, and a checkpoint of the pipeline."""
    folder, changes = tmp_path_factory.mktemp(request.param), dict(KINDS[request.param])
    channels = changes.pop("conditioning_channels", 3)
    network = text(in_channels=3, out_channels=3, **changes)
    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    pipeline = diffusers.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=clip(),
        tokenizer=tokenizer(folder / "words"),
        unet=network,
        scheduler=diffusers.DDIMScheduler(**settings, **DDIM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline")
    control = controlnet(network, channels)
    control.save_pretrained(folder / "control")
    main(["import", str(folder / "pipeline"), str(folder / "base.ckpt")])
    main(["import", str(folder / "control"), str(folder / "control.ckpt"), "--base", str(folder / "base.ckpt")])
    return folder, pipeline, control


def task_of(path):
    task = build_task(load_checkpoint(path))
    task.ema.start(task.learned)
    return task


def asked(control, strength=1.0):
    """Pictures in [0, 1] for them, and our signal."""
    picture = torch.rand(2, control.config.conditioning_channels, 16, 16, generator=torch.Generator().manual_seed(2))
    numbers = (torch.full((2,), v) for v in (strength, 0.0, 1.0))
    return picture, Control(2 * picture - 1, torch.ones(2, dtype=torch.bool), *numbers)


@torch.no_grad()
def theirs(pipeline, control, x, index, tokens, strength):
    picture, _ = asked(control)
    down, mid = control(x, index, tokens, picture, conditioning_scale=strength, return_dict=False)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
    return pipeline.unet(x, index, tokens, **residuals).sample


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_the_controlled_network_is_that_of_diffusers(published, strength):
    folder, pipeline, control = published
    network = task_of(folder / "control.ckpt").denoiser.network
    x, tokens, c_noise = draw(2, 3, 8, 8), draw(2, TOKENS, 12, seed=3), torch.tensor([-0.2, 0.4])
    signals = {"text": Text(tokens, torch.ones(2, TOKENS, dtype=torch.bool), tokens[:, 0])}
    answer = network(x, c_noise, {**signals, "control": asked(control, strength)[1]})
    expected = theirs(pipeline, control, x, network.base.noise.index(c_noise), tokens, strength)
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)
    assert (answer - network(x, c_noise, signals)).abs().max() > 1e-2


@pytest.mark.parametrize("published", ["stable_diffusion_1"], indirect=True)
def test_the_pipeline_draws_the_same_image(published):
    """Guidance with the picture in both branches, as in diffusers."""
    folder, pipeline, control = published
    whole = diffusers.StableDiffusionControlNetPipeline(
        **{k: v for k, v in pipeline.components.items() if k != "image_encoder"},
        controlnet=control,
        requires_safety_checker=False,
    )
    whole.set_progress_bar_config(disable=True)
    task = task_of(folder / "control.ckpt")
    picture, signal = asked(control)
    cond = task.conditioner.keep({"caption": ["a dog"], "hint": signal.x[:1]})
    assert set(cond.signals) == {"text", "control"}
    image = drawn(task, cond, (3, 16, 16))
    made = whole(
        "a dog",
        image=picture[:1],
        num_inference_steps=STEPS,
        latents=first_noise(task, (3, 8, 8)),
        guidance_scale=7.5,
        output_type="pt",
        height=16,
        width=16,
    ).images
    torch.testing.assert_close(image, made * 2 - 1, rtol=1e-3, atol=1e-3)
    plain = drawn(task, Condition({"text": cond.signals["text"]}), (3, 16, 16))
    assert (image - plain).abs().max() > 1e-2


def test_what_comes_in_goes_out_the_same(published, tmp_path):
    folder, _, control = published
    main(["export", str(folder / "control.ckpt"), str(tmp_path / "out")])
    again = diffusers.ControlNetModel.from_pretrained(tmp_path / "out")
    state = again.state_dict()
    assert state.keys() == control.state_dict().keys()
    for name, w in control.state_dict().items():
        torch.testing.assert_close(state[name].reshape(w.shape), w)
    x, tokens, index = draw(2, 3, 8, 8), draw(2, TOKENS, 12, seed=3), torch.tensor([3, 700])
    picture, _ = asked(control)
    with torch.no_grad():
        pairs = [c.eval()(x, index, tokens, picture, return_dict=False) for c in (control, again)]
    torch.testing.assert_close(pairs[1], pairs[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("published", ["stable_diffusion_2"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"block_out_channels": [8, 24]}, r"is for a network with widths=\[8, 24\] and the base has \[8, 16\]"),
        ({"cross_attention_dim": 16}, "text_dim=16"),
        ({"freq_shift": 1}, "freq_shift=1"),
        ({"controlnet_conditioning_channel_order": "bgr"}, "channel_order='bgr' and only 'rgb' can be had"),
        ({"conditioning_embedding_out_channels": [4, 8]}, r"blocks.1.weight of \(6, 4, 3, 3\)"),
        ({"_class_name": "UNet2DConditionModel"}, "and no ControlNetModel"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused(published, changes, said, tmp_path):
    folder, _, control = published
    control.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=said):
        load_controlnet(tmp_path, folder / "base.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("published", ["stable_diffusion_1"], indirect=True)
def test_one_is_trained_on_a_published_model_of_texts_and_latents(published, tmp_path):
    """Codec, text encoder and the factor of the latents come with the base; it draws from its checkpoint alone, and
    goes out."""
    folder, pictures = published[0], tmp_path / "pictures"
    pictures.mkdir()
    lines = []
    for i in range(24):
        noise = np.random.default_rng(i).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise[0]).save(pictures / f"{i}.png")
        Image.fromarray(noise[1]).save(pictures / f"hint{i}.png")
        lines.append({"file_name": f"{i}.png", "text": "a dog", "conditioning_image": f"hint{i}.png"})
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = ["data=image_folder", f"data.root={pictures}", "data.hint_channels=3", "data.validation=8"]
    model = ["model=controlnet", f"model.base.path={folder / 'base.ckpt'}", "optimizer.lr=0.1", "metrics=[]"]
    arguments = [*runs.TOY, *data, *model, "callbacks=[latent_cache,checkpoints]"]
    run = runs.call("train.py", *runs.outputs(tmp_path / "run", *arguments), cwd=tmp_path)
    runs.succeeded(run)
    made = load_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    network = made["config"]["task"]["denoiser"]["network"]
    assert network["hint_factor"] == FACTOR and network["hint_channels"] == 3
    before = load_checkpoint(folder / "base.ckpt")["state_dict"]
    for name, w in before.items():
        if name.startswith("codec."):
            assert torch.equal(made["state_dict"][name], w)
        if name.startswith("conditioner."):
            part = name.replace("conditioner.", "conditioner.parts.text.")
            assert torch.equal(made["state_dict"][part], w)
    asked = ["n=2", "prompt=a dog", f"hint={pictures / 'hint0.png'}", *SHORT]
    images = runs.sample(tmp_path / "a", tmp_path / "run/checkpoints/last.ckpt", *asked).images
    alone = runs.sample(tmp_path / "b", folder / "base.ckpt", "n=2", "prompt=a dog", *SHORT).images
    assert images != alone
    zero = [*asked, "control_strength=0"]
    assert runs.sample(tmp_path / "a", tmp_path / "run/checkpoints/last.ckpt", *zero).images == alone
    main(["export", str(tmp_path / "run/checkpoints/last.ckpt"), str(tmp_path / "out")])
    diffusers.ControlNetModel.from_pretrained(tmp_path / "out")
