"""experiment=edit_emoji at toy size: from texts and pictures of two tiny packages to edits of a picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from data.test_emoji import write
from oboro.cli.sample import condition
from oboro.condition import Condition
from oboro.data import emoji
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.rebuild import averaged, build_task

pytestmark = pytest.mark.slow  # whole runs

SHORT = [o for o in runs.toy(runs.NO_EVALUATION) if not o.startswith(("model.", "sampler", "optimizer", "callbacks"))]
CACHED = "callbacks=[latent_cache,sample_grid,checkpoints]"
EDIT = ("experiment=edit_emoji", CACHED, "metrics=[]", "callbacks.sample_grid.n=8", "extractor=raw", "sampler.steps=2")

# Muon, which the experiment has, at a rate that does not know when the run ends
STEADY = ("optimizer.lr=0.01", "optimizer.warmup_steps=1", "optimizer.decay={_target_: oboro.optimizer.Constant}")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    root = tmp_path_factory.mktemp("packages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji, "PACKAGES", write(root))
        yield f"data.root={root}"


@pytest.fixture(scope="module")
def text_to_image(packages, tmp_path_factory):
    """A model of texts in latents with random weights and averages."""
    folder = tmp_path_factory.mktemp("text_to_image")
    data = ("data=emoji", packages, "data.validation=6", "extractor=raw")
    runs.train(folder / "codec", runs.AUTOENCODER, *data, "metrics=[]", "callbacks=[latent_statistics,checkpoints]")
    runs.train(folder / "clip", runs.CLIP, *data, runs.NO_EVALUATION)
    codec, clip = (folder / name / "checkpoints/last.ckpt" for name in ("codec", "clip"))
    parts = ("codec=trained", f"codec.path={codec}", "conditioner=text", f"conditioner.encoder.path={clip}")
    content = runs.train(folder / "run", *data, *parts, "metrics=[]", runs.NO_EVALUATION).checkpoint()
    task = build_task(content)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        runs.randomise(task)
    content["state_dict"], content["ema"] = task.state_dict(), task.ema.state_dict(task.learned)
    torch.save(content, folder / "random.ckpt")
    return folder / "random.ckpt"


@pytest.fixture(scope="module")
def edit(packages, text_to_image, tmp_path_factory):
    """``edit("key=value")``: two steps of the experiment from that model."""

    def edit(*overrides):
        folder = tmp_path_factory.mktemp("edit")
        arguments = [*SHORT, *EDIT, packages, "data.validation=6", f"init={text_to_image}", *overrides]
        return runs.call("train.py", *runs.outputs(folder, *arguments), cwd=folder)

    return edit


@pytest.fixture(scope="module")
def edited(edit):
    return runs.succeeded(edit(*STEADY))


def question(task, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = task.codec.latent_shape((3, 64, 64))
    batch = {"hint": torch.rand(2, 3, 64, 64, generator=g) * 2 - 1, "caption": ["make it blue", "a red apple"]}
    return torch.randn(2, *shape, generator=g), torch.tensor([0.3, 0.8]), batch


def test_it_starts_as_the_same_function_with_codec_and_text_encoder_of_the_checkpoint(edit, text_to_image):
    """For any picture, in weights and in every average, with the wording as that model reads it."""
    content = runs.succeeded(edit("optimizer.lr=0")).checkpoint()
    task, former = build_task(content), build_task(load_checkpoint(text_to_image))
    averaged(former, text_to_image, None)
    x_t, t, batch = question(task)
    expected = former.denoiser(x_t, t, former.conditioner.keep(batch))
    assert expected.std() > 0.1
    for profile in (None, *task.ema.profiles):
        if profile is not None:
            averaged(task, text_to_image, profile)
        answer = task.denoiser(x_t, t, task.seen(task.conditioner.keep(batch)))
        torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)
    raw = build_task(content)
    assert torch.equal(raw.denoiser(x_t, t, raw.seen(raw.conditioner.keep(batch))), expected)
    assert runs.equal(task.codec.state_dict(), former.codec.state_dict())


def test_the_picture_is_learned_in_latents_and_a_run_resumes_exactly(edit, edited, packages, tmp_path):
    """Cached latents of pictures are those that the codec gives, and what came of them goes on bit for bit."""
    content = edited.checkpoint()
    assert content["state_dict"]["denoiser.network.image.weight"].abs().max() > 0
    whole = runs.succeeded(edit(*STEADY, "trainer.max_steps=3"))
    arguments = [f"resume={edited.last}", "trainer.max_steps=3"]
    resumed = runs.Run(0, "", "", tmp_path / "resumed")
    resumed.folder.mkdir()
    runs.succeeded(runs.call("train.py", *runs.outputs(resumed.folder, *arguments), cwd=tmp_path))
    assert runs.equal(resumed.checkpoint()["state_dict"], whole.checkpoint()["state_dict"])
    task = build_task(content)
    _, _, batch = question(task)
    cond = task.conditioner.keep(batch)
    latents = task.codec.encode(batch["hint"])
    assert torch.equal(task.seen(cond).signals["image"].x, latents)
    lost = torch.tensor([True, False])
    dropped = replace(cond, signals={name: signal.drop(lost) for name, signal in cond.signals.items()})
    held, encoded = (task.seen(dropped, {**batch, **more}).signals["image"] for more in ({"hint_latent": latents}, {}))
    assert held == encoded and not held.x[0].any() and torch.equal(held.x[1], latents[1])


def test_sampling_takes_a_picture_a_text_and_a_scale_for_each(edited, tmp_path):
    """Eq. 3 of arXiv:2211.09800 at three evaluations, whatever order the scales are typed in."""
    for i in range(3):
        Image.new("RGB", (90, 60 + i), (200, 40 * i, 30)).save(tmp_path / f"{i}.png")
    typed = (f"hint={tmp_path}", "prompt=make it blue", "n=3", "guidance.scales.image=1.2")
    one = runs.sample(tmp_path / "a", edited.last, *typed, "guidance.scales.text=4")
    two = runs.sample(tmp_path / "b", edited.last, *typed, "guidance.scales={text: 4, image: 1.2}")
    assert one.images == two.images and len(set(one.images[:3])) == 3
    single = runs.sample(
        tmp_path / "c", edited.last, f"hint={tmp_path / '0.png'}", *typed[1:], "guidance.scales.text=4"
    )
    assert single.images[0] == one.images[0]
    task = build_task(edited.checkpoint())
    x_t, t, batch = question(task)
    cond = task.seen(condition(task, batch))
    none, image, both = (task.denoiser(x_t, t, c) for c in (Condition(), cond.only("image"), cond))
    task.guidance.scales = {"image": 1.2, "text": 4.0}
    guided = task.guidance(task.denoiser, [])(x_t, t, cond)
    torch.testing.assert_close(guided, none + 1.2 * (image - none) + 4.0 * (both - image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["adapter=lora"], "network.image, which the model in init does not have, starts at zero"),
        (["model.channels=16"], "model.channels is 8 there and 16 here"),
        (["conditioner.parts.image.latent=false"], "conditioner.latent=true"),
        (["guidance.scales={image: 2, sound: 3}"], "guidance.scales has image|text and nothing else; add others with"),
        (["+guidance.scales.sound=3"], "sound"),
        (["data.channels=1"], "data.channels"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(edit, change, said):
    run = edit(*change)
    assert run.status == 1 and said in run.stderr.replace("\n", " ") and "Traceback" not in run.stderr


def test_no_picture_or_text_to_sample_is_said_and_the_grid_shows_pairs_of_the_data(edited, tmp_path):
    for arguments, remedy in (
        (["prompt=make it blue"], "set hint="),
        ([f"hint={tmp_path / 'nothing.png'}", "prompt=a"], "there is no hint="),
        ([f"hint={tmp_path}", "prompt=a"], "holds no pictures"),
    ):
        run = runs.call("sample.py", f"checkpoint={edited.last}", "accelerator=cpu", "n=2", *arguments, cwd=tmp_path)
        assert run.status == 1 and remedy in run.stderr and "Traceback" not in run.stderr
    (grid,) = (edited.folder / "samples").glob("*.png")
    assert np.asarray(Image.open(grid)).std() > 0
