"""A published pipeline draws here what it draws in diffusers, as a checkpoint too, and goes back the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from interop.test_unet import pixels, text
from interop.tiny import LENGTH, autoencoder, clip, diffusers, scramble, tokenizer
from oboro.base.errors import UserError
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition
from oboro.interop import autoencoder as published_autoencoder
from oboro.interop import clip_text, ldm
from oboro.interop.pipeline import export, export_task, load_pipeline, save_checkpoint
from oboro.loss import Consistency
from oboro.loss.coupling import Independent
from oboro.loss.curriculum import Easy
from oboro.loss.penalty import Squared
from oboro.loss.time import Uniform
from oboro.restore import inlined, load_parts
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.rebuild import build_task
from oboro.sampler import DDIM as DDIMSampler
from oboro.sampler import nodes
from oboro.sampler.grid import Times
from oboro.task import contradictions

transformers = pytest.importorskip("transformers")

CONF = Path(__file__).resolve().parents[2] / "conf"
DDIM = {"clip_sample": False, "set_alpha_to_one": True}
STEPS = 5


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory):
    """A folder of an unconditional pipeline on pixels."""
    folder = tmp_path_factory.mktemp("ddpm")
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    diffusers.DDPMPipeline(unet=pixels(), scheduler=scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    """A folder of a text-to-image pipeline on latents of 3×8×8."""
    folder = tmp_path_factory.mktemp("sd")
    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    network = text(in_channels=3, out_channels=3, attention_head_dim=2)
    words = tokenizer(folder / "words")
    diffusers.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=clip(),
        tokenizer=words,
        unet=network,
        scheduler=diffusers.DDIMScheduler(**settings, **DDIM, prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def first_noise(task, shape, seed=3):
    """x at the first node of the sampler, which diffusers takes as its latents; one image with the id 0."""
    sampler, schedule = task.sampler, task.denoiser.schedule
    noise = SampleNoise(seed, [0])(torch.empty(1, *shape))
    return noise * nodes(schedule, [sampler.nodes(schedule)[0].t])[0].sigma


def drawn(task, cond, shape):
    task.sampler.steps = STEPS
    task.sampler.grid.count = 1000
    return task.generate([0], 3, cond, shape).clamp(-1, 1)  # as diffusers does


def theirs_of_pixels(folder, task):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, **DDIM)
    scheduler.set_timesteps(STEPS)
    x = first_noise(task, (3, 8, 8))
    for t in scheduler.timesteps:
        x = scheduler.step(pipeline.unet(x, t).sample, t, x).prev_sample
    return x.clamp(-1, 1)


def theirs_of_text(folder, task, prompt, **settings):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    x = first_noise(task, (3, 8, 8))
    asked = {"num_inference_steps": STEPS, "latents": x, "output_type": "pt", "guidance_scale": 7.5, **settings}
    return pipeline(prompt, **asked).images * 2 - 1


def test_a_pipeline_of_pixels_draws_the_same_image(ddpm):
    task = load_pipeline(ddpm)
    image = drawn(task, Condition(), (3, 8, 8))
    torch.testing.assert_close(image, theirs_of_pixels(ddpm, task), rtol=1e-4, atol=1e-4)
    assert image.std() > 0.1


@pytest.mark.parametrize("negative", [None, "cat"])
def test_a_pipeline_of_texts_draws_the_same_image(stable_diffusion, negative):
    """Tokenizer, text encoder, guidance, network, table, sampler and decoder, all at once."""
    task = load_pipeline(stable_diffusion)
    cond = task.conditioner.keep({"caption": ["a dog"]})
    if negative:
        cond = replace(cond, away=task.conditioner.keep({"caption": [negative]}).signals)
    image = drawn(task, cond, (3, 16, 16))
    theirs = theirs_of_text(stable_diffusion, task, "a dog", negative_prompt=negative)
    torch.testing.assert_close(image, theirs, rtol=1e-3, atol=1e-3)
    assert image.std() > 0.1
    other = drawn(task, task.conditioner.keep({"caption": ["a cat"]}), (3, 16, 16))
    assert (image - other).abs().max() > 1e-2


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_text_encoder_is_that_of_transformers(pad, activation, tmp_path):
    from oboro.conditioner import PublishedCLIP

    published, words = clip(hidden_act=activation), tokenizer(tmp_path / "tokenizer", pad)
    published.save_pretrained(tmp_path / "text_encoder")
    config, state = PublishedCLIP(str(tmp_path)).load()
    encoder = instantiate(config).eval()
    encoder.load_state_dict(state)
    texts = ["", "A Dog", "a b c d e f g h i", "dog"]
    ids = words(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
    assert torch.equal(encoder.tokenize(texts), ids)
    with torch.no_grad():
        tokens, mask, pooled = encoder.encode_tokens(texts)
    said = published(ids)
    torch.testing.assert_close(tokens, said.last_hidden_state, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled, said.pooler_output, rtol=1e-4, atol=1e-4)
    assert mask.all() and encoder.lengths(texts) == mask.sum(1).tolist()
    assert encoder.unread(texts) == ["", "", "e f g h i", ""]


@pytest.mark.parametrize("which", ["ddpm", "stable_diffusion"])
def test_the_checkpoint_of_a_pipeline_draws_what_its_task_draws(which, request, tmp_path):
    task = load_pipeline(request.getfixturevalue(which))
    save_checkpoint(task, tmp_path / "published.ckpt")
    checkpoint = load_checkpoint(tmp_path / "published.ckpt")
    again = build_task(checkpoint, sampler=checkpoint["config"]["sampler"])
    contradictions.check(again)
    shape = (3, *(checkpoint["config"]["data"]["resolution"],) * 2)
    cond = [t.conditioner.keep({"caption": ["a dog"]}) for t in (task, again)]
    with again.averaged():
        assert torch.equal(drawn(task, cond[0], shape), drawn(again, cond[1], shape))


@pytest.mark.parametrize("which", ["ddpm", "stable_diffusion"])
def test_what_comes_in_goes_out_and_draws_the_same_image(which, request, tmp_path):
    folder = request.getfixturevalue(which)
    task = load_pipeline(folder)
    save_checkpoint(task, tmp_path / "published.ckpt")
    export(tmp_path / "published.ckpt", tmp_path / "out")
    task.sampler.steps = STEPS
    draws = (theirs_of_pixels, ()) if which == "ddpm" else (theirs_of_text, ("a dog",))
    before, after = (draws[0](place, task, *draws[1]) for place in (folder, tmp_path / "out"))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    again = load_pipeline(tmp_path / "out")
    assert again.state_dict().keys() == task.state_dict().keys()
    for key, value in task.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_what_a_run_learns_on_published_parts_draws_the_same_image_in_diffusers(stable_diffusion, tmp_path):
    """codec=diffusers, conditioner=text_clip, model=ldm_unet_text and adapter=lora, built as train.py builds them."""
    sizes = [
        "model.widths=[8,16]",
        "model.attention.heads=[2,4]",
        "model.attention.levels=[0]",
        "model.blocks=1",
        "model.norm.groups=4",
    ]
    parts = ["codec=diffusers", f"codec.path={stable_diffusion / 'vae'}", "conditioner=text_clip"]
    parts += [f"conditioner.encoder.path={stable_diffusion}", "model=ldm_unet_text", "schedule=scaled_linear"]
    data = ["data=image_folder", "data.root=photos", "data.channels=3", "data.resolution=16", "output_dir=outputs"]
    times = ["parameterization=eps", "sampler=ddim", "sampler/grid=leading", "sampler.grid.offset=1"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(
            "train", [*parts, *sizes, *data, *times, "adapter=lora", "guidance.scale=3", "trainer.accelerator=cpu"]
        )
    plain = OmegaConf.to_container(config, resolve=True)
    plain["task"], found = inlined(plain["task"])
    task = instantiate(plain["task"], _convert_="all").eval()
    load_parts(task, found)
    scramble(task.denoiser.network)
    task.config = plain
    task.ema.start(task.learned)
    save_checkpoint(task, tmp_path / "run.ckpt")
    export(tmp_path / "run.ckpt", tmp_path / "out")
    image = drawn(task, task.conditioner.keep({"caption": ["a dog"]}), (3, 16, 16))
    theirs = theirs_of_text(tmp_path / "out", task, "a dog", guidance_scale=3.0)
    torch.testing.assert_close(image, theirs, rtol=1e-3, atol=1e-3)
    task.denoiser.network.empty_text.tokens.zero_()
    save_checkpoint(task, tmp_path / "run.ckpt")
    with pytest.raises(UserError, match="something else for no text"):
        export(tmp_path / "run.ckpt", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("steps", [1, 4])
def test_a_consistency_model_draws_the_same_image_with_lcms_scheduler(ddpm, steps, tmp_path):
    """A jump to the data and fresh noise, at the indices that diffusers takes; the last jump is x̂0 itself."""
    task = load_pipeline(ddpm)
    task.loss = Consistency(Uniform(), Easy(), Squared(), Independent())
    export_task(task, task.config, tmp_path / "out")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(pipeline).__name__ == "DDPMPipeline" and type(pipeline.scheduler).__name__ == "LCMScheduler"
    pipeline.scheduler.set_timesteps(steps)
    times = [(i + 1) / 1000 for i in pipeline.scheduler.timesteps.tolist()]
    task.sampler = DDIMSampler(steps, float("inf"), Times([*times, 0.0]))
    x = SampleNoise(3, [0])(torch.empty(1, 3, 8, 8)) * nodes(task.denoiser.schedule, times[:1])[0].sigma
    g = torch.Generator().manual_seed(0)
    ours = task.sampler(task.denoiser, x, Condition(), lambda like: torch.randn(like.shape, generator=g))
    g, theirs = torch.Generator().manual_seed(0), x
    with torch.no_grad():
        for i in pipeline.scheduler.timesteps:
            theirs = pipeline.scheduler.step(pipeline.unet(theirs, i).sample, i, theirs, generator=g).prev_sample
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)
    again = load_pipeline(tmp_path / "out").sampler
    assert again.jumps and again.eta == float("inf")


def test_a_model_without_a_twin_is_not_exported(ddpm, tmp_path):
    task = load_pipeline(ddpm)
    task.config["task"]["denoiser"]["network"] = {"_target_": "oboro.model.UNet", "in_channels": 3, "channels": 8}
    other = instantiate(task.config["task"], _convert_="all")
    other.config = task.config
    other.ema.start(other.learned)
    save_checkpoint(other, tmp_path / "own.ckpt")
    with pytest.raises(UserError, match=r"UNet has no twin in diffusers.*model=ldm_unet"):
        export(tmp_path / "own.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(stable_diffusion, tmp_path):
    with pytest.raises(UserError, match="block_out_channels"):
        published_autoencoder.load(stable_diffusion / "text_encoder")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 8}))
    with pytest.raises(UserError, match="holds a t5 and no CLIP"):
        clip_text.load(tmp_path, tmp_path)
    (tmp_path / "other.yaml").write_text("trainer: {devices: 1}")
    with pytest.raises(UserError, match=r"other\.yaml has no model"):
        ldm.read(tmp_path / "weights.ckpt", tmp_path / "other.yaml", tmp_path)


def test_a_folder_that_lacks_a_part_is_refused(ddpm, tmp_path):
    missing = {"model_index.json": "model_index", "scheduler/scheduler_config.json": "scheduler_config"}
    missing |= {"unet/config.json": "config", "unet/diffusion_pytorch_model.safetensors": "diffusion_pytorch_model"}
    for name, said in missing.items():
        shutil.copytree(ddpm, tmp_path / said)
        (tmp_path / said / name).unlink()
        with pytest.raises(UserError, match=said):
            load_pipeline(tmp_path / said)


def test_an_unknown_pipeline_is_refused(ddpm, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match="FluxPipeline"):
        load_pipeline(tmp_path)
