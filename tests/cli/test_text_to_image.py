"""The road from captioned pictures to pictures of a text: three runs of train.py, then sample.py and evaluate.py."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from oboro.data import FashionCaptions
from oboro.extractor import TrainedCLIP
from oboro.metrics.clip_score import clip_score
from oboro.modality import to_uint8
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.rebuild import build_task

CAPTIONS = "data=fashion_captions_10k"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Toy checkpoints of an autoencoder and of a CLIP."""
    folder = tmp_path_factory.mktemp("parts")
    runs.train(folder / "autoencoder", runs.AUTOENCODER, "callbacks=[latent_statistics,checkpoints]")
    runs.train(folder / "clip", runs.CLIP, CAPTIONS, runs.NO_EVALUATION)
    return {name: folder / name / "checkpoints/last.ckpt" for name in ("autoencoder", "clip")}


def overrides(parts):
    return (
        CAPTIONS,
        "codec=trained",
        f"codec.path={parts['autoencoder']}",
        "conditioner=text",
        f"conditioner.encoder.path={parts['clip']}",
        "conditioner.dropout=0.5",
        "guidance.scale=3",
        "sampler.steps=2",
    )


@pytest.fixture(scope="module")
def text_to_image(parts, tmp_path_factory):
    """The run, and its checkpoint with random weights and averages: two steps leave the network a zero function."""
    folder = tmp_path_factory.mktemp("text_to_image")
    run = runs.train(folder / "run", *overrides(parts), "callbacks=[latent_cache,text_cache,sample_grid,checkpoints]")
    content = run.checkpoint()
    task = build_task(content)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for p in task.denoiser.parameters():
            torch.nn.init.normal_(p, std=0.3)
    content["state_dict"] = task.state_dict()
    for average in content["ema"]["averages"].values():
        for name, p in task.denoiser.named_parameters():
            average[name].copy_(p)
    torch.save(content, folder / "random.ckpt")
    return run, folder / "random.ckpt"


@pytest.fixture(scope="module")
def drawn(text_to_image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    return runs.sample(folder, text_to_image[1], "n=4", 'prompt=["a bag","einen Schuh 👟"]')


def pixels(run: runs.Run) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((run.folder / "images").glob("*.png"))])


def test_a_checkpoint_holds_its_codec_and_its_text_encoder(parts, text_to_image, tmp_path):
    """The files they came from are not needed any more, and hold the same weights: the averages."""
    _, path = text_to_image
    task = build_task(load_checkpoint(path))
    for name, module in (("autoencoder", task.codec), ("clip", task.conditioner.encoder)):
        source = build_task(load_checkpoint(parts[name]))
        learned = source.learned if name == "autoencoder" else source.learned.text
        names = (name for name, _ in source.learned.named_parameters())
        average = dict(zip(names, source.ema.averages[source.ema.default], strict=True))
        prefix = "" if name == "autoencoder" else "text."
        for key, p in module.named_parameters():
            assert torch.equal(p, average[prefix + key])
        for key, buffer in learned.named_buffers():
            assert torch.equal(buffer, module.get_buffer(key))
    assert "path" not in json.dumps(load_checkpoint(path)["config"]["task"])
    assert not torch.equal(task.codec.latent_std, torch.ones_like(task.codec.latent_std))  # statistics came along


def test_texts_are_drawn_in_turn_and_kept_beside_the_images(drawn):
    lines = [
        json.loads(line) for line in (drawn.folder / "images/metadata.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["text"] for line in lines] == ["a bag", "einen Schuh 👟"] * 2
    assert [line["file_name"] for line in lines] == [f"{i:06d}.png" for i in range(4)]
    images = pixels(drawn).astype(float)
    assert images.shape == (4, 28, 28) and images.std((1, 2)).min() > 1


@pytest.mark.parametrize("text", ["a shoe, black", 'she\'s "new": 5% off {now}', "ein Schuh 👟", "back\\slash\\"])
def test_a_text_needs_no_quotes_of_its_own(text_to_image, tmp_path, text):
    run = runs.sample(tmp_path, text_to_image[1], "n=1", f"prompt={text}", f"negative={text}")
    assert json.loads((run.folder / "images/metadata.jsonl").read_text(encoding="utf-8"))["text"] == text


@pytest.mark.slow
def test_the_text_and_the_negative_text_decide_the_image(drawn, text_to_image, tmp_path):
    """Away from the text itself is the model without guidance."""
    _, path = text_to_image
    of_bags = pixels(runs.sample(tmp_path / "a", path, "n=4", "prompt=a bag"))
    assert np.array_equal(of_bags[[0, 2]], pixels(drawn)[[0, 2]])
    assert not np.array_equal(of_bags[1], pixels(drawn)[1])
    away = pixels(runs.sample(tmp_path / "b", path, "n=4", "prompt=a bag", "negative=a dark coat"))
    assert not np.array_equal(away, of_bags)
    itself = pixels(runs.sample(tmp_path / "c", path, "n=4", "prompt=a bag", "negative=a bag"))
    unguided = pixels(runs.sample(tmp_path / "d", path, "n=4", "prompt=a bag", "guidance=unguided"))
    assert np.abs(itself.astype(int) - unguided.astype(int)).max() <= 1


def test_negative_texts_are_taken_in_turn(text_to_image, tmp_path):
    """Sample 1 goes away from the second one, as it does from that alone."""
    _, path = text_to_image
    both = runs.sample(tmp_path / "a", path, "n=2", "prompt=a bag", 'negative=["a dark coat","a shoe"]')
    second = runs.sample(tmp_path / "b", path, "n=2", "prompt=a bag", "negative=a shoe")
    assert both.images[1] == second.images[1] and both.images[0] != second.images[0]


@pytest.mark.slow
def test_the_end_of_a_text_that_is_not_read_is_named(text_to_image, tmp_path):
    """Two texts that differ there draw one picture, and so it is remarked; texts that fit are not."""
    start = "a shoe and " * 30
    drawn = [runs.sample(tmp_path / end, text_to_image[1], "n=1", f"prompt={start}{end}") for end in ("red", "blue")]
    assert drawn[0].images[0] == drawn[1].images[0]
    for run in drawn:
        assert (
            "1 of 1 different texts of prompt are longer than what the model reads of a text" in run.stdout + run.stderr
        )
    short = runs.sample(tmp_path / "short", text_to_image[1], "n=1", "prompt=a shoe")
    assert "longer than" not in short.stdout + short.stderr


def test_cached_latents_and_texts_train_the_same_model(parts, text_to_image, tmp_path):
    run, _ = text_to_image
    uncached = runs.train(tmp_path / "run", *overrides(parts), "callbacks=[checkpoints]")
    cached, encoded = (r.checkpoint()["state_dict"] for r in (run, uncached))
    for name in cached:
        torch.testing.assert_close(cached[name], encoded[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_samples_are_measured_by_the_class_of_their_caption(text_to_image, tmp_path):
    found = runs.evaluate(tmp_path, text_to_image[1], "n=20", "chunk=10", "metrics=[frechet,accuracy]")
    assert {"fd_fashion_20", "accuracy_fashion_20"} <= set(found["values"])
    assert found["protocol"]["codec"]["name"] == "Autoencoder"


@pytest.mark.slow
def test_clip_score_is_the_mean_over_samples_and_the_captions_they_were_drawn_for(parts, text_to_image, tmp_path):
    """By hand, from the same samples; real images and their captions stand beside it."""
    asked = ("n=20", "chunk=10", "metrics=[clip_score]", "extractor=trained_clip", f"extractor.path={parts['clip']}")
    found = runs.evaluate(tmp_path, text_to_image[1], *asked)
    data = FashionCaptions(part="test", validation=24, cache_dir=str(runs.cache_dir()))
    data.prepare_data()
    data.setup()
    task = build_task(load_checkpoint(text_to_image[1]))
    batch = task.conditioner.metadata(range(20), data.population)
    with task.averaged():
        cond = task.conditioner.keep(batch)
        halves = [cond.rows(part) for part in (slice(10), slice(10, 20))]
        images = [
            task.generate(list(range(s, s + 10)), 0, half, (1, 28, 28)) for s, half in zip((0, 10), halves, strict=True)
        ]
    extractor = TrainedCLIP(str(parts["clip"]))
    features = extractor(to_uint8(torch.cat(images)))["features"]
    expected = clip_score(features, extractor.embed_text(batch["caption"])).mean().item()
    score = found["metrics"]["clip_score_trained_clip_20"]
    assert score["value"] == pytest.approx(expected, abs=0.05) and 0 <= score["real"] <= 100


def test_data_without_captions_do_not_measure_a_model_of_texts(text_to_image, tmp_path):
    asked = ("n=20", "data=fashion_mnist_10k", "metrics=[frechet]")
    run = runs.call("evaluate.py", f"checkpoint={text_to_image[1]}", *asked, cwd=tmp_path)
    assert run.status == 1 and "the data have none; choose data=... with captions" in run.stderr.replace("\n", " ")


@pytest.mark.slow
def test_callbacks_that_are_left_out_take_their_settings_along(parts, tmp_path):
    """The experiment sets values of callbacks that the command line does not choose."""
    experiment = ("experiment=ldm_fashion_text", *overrides(parts), "callbacks=[checkpoints]")
    assert runs.train(tmp_path, *experiment).checkpoint()["global_step"] == 2


def test_clip_score_without_texts_is_refused(parts, checkpoint, tmp_path):
    asked = ("n=20", "metrics=[clip_score]", "extractor=trained_clip", f"extractor.path={parts['clip']}")
    run = runs.call("evaluate.py", f"checkpoint={checkpoint}", *asked, cwd=tmp_path)
    assert run.status == 1 and "clip_score needs the text of every image" in run.stderr.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["label=3"], "the model was trained without labels"),
        (["prompt=a bag", "label=3"], "the model was trained without labels"),
        (["prompt=[]"], "names no text"),
        (["prompt=[null]"], "prompt has null among its texts; put it into quotes if it is meant as a word"),
        (["prompt=[a,true]"], "prompt has true among its texts; put it into quotes if it is meant as a word"),
        (["prompt=[[a,b]]"], "prompt has ['a', 'b'] among its texts"),
        (["prompt=a bag", "negative=[null]", "guidance.scale=3"], "negative has null among its texts"),
        (["prompt=a bag", "negative=[]", "guidance.scale=3"], "negative=[] names no text"),
        ([], "was given none; set prompt="),
        (["prompt=a bag", "negative=a coat", "guidance=unguided"], "choose guidance=classifier_free"),
    ],
)
def test_what_cannot_be_drawn_is_said(text_to_image, tmp_path, arguments, said):
    run = runs.call("sample.py", f"checkpoint={text_to_image[1]}", "n=2", *arguments, cwd=tmp_path)
    assert run.status == 1 and said in run.stderr.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["data=fashion_mnist_10k"], "choose data=fashion_captions"),
        (["model=song_unet_ddpmpp", "optimizer=adamw"], "reads no text; choose model=unet"),
        (["codec.path=nowhere.ckpt"], "there is no checkpoint nowhere.ckpt; give"),
        (["callbacks=[latent_statistics,checkpoints]"], "LatentStatistics looks at a codec in training"),
        (["callbacks=[reconstruction_metrics,checkpoints]"], "ReconstructionMetrics looks at a codec in training"),
        (["callbacks=[latent_cache]", "callbacks.latent_cache.chunk=0"], "1 or more"),
    ],
)
def test_what_cannot_be_trained_is_said(parts, tmp_path, change, said):
    run = runs.call("train.py", *runs.toy(*overrides(parts), runs.NO_EVALUATION, *change), cwd=tmp_path)
    assert run.status == 1 and said in run.stderr.replace("\n", " ")


@pytest.mark.slow
def test_a_text_encoder_that_has_learned_nothing_is_refused(text_to_image, tmp_path):
    """``init`` brings one along, but not into another shape."""
    arguments = [f"init={text_to_image[1]}", CAPTIONS, "conditioner.encoder.depth=3"]
    kept = [o for o in runs.toy(runs.NO_EVALUATION) if not o.startswith(("model.", "sampler"))]
    run = runs.call("train.py", *kept, *arguments, cwd=tmp_path)
    assert run.status == 1 and "the conditioner Text has learned nothing yet" in run.stderr.replace("\n", " ")


def test_a_codec_that_has_learned_nothing_is_refused(tmp_path):
    run = runs.call("train.py", *runs.toy("codec=autoencoder_fashion", runs.NO_EVALUATION), cwd=tmp_path)
    assert run.status == 1 and "has learned nothing yet; choose codec=trained" in run.stderr.replace("\n", " ")


def test_a_checkpoint_of_another_task_is_refused(parts, tmp_path):
    changed = [f"codec.path={parts['clip']}", runs.NO_EVALUATION]
    run = runs.call("train.py", *runs.toy(*overrides(parts), *changed), cwd=tmp_path)
    assert run.status == 1 and "give one that train.py wrote with task=autoencoder" in run.stderr.replace("\n", " ")


def test_a_model_without_text_says_so(parts, checkpoint, tmp_path):
    run = runs.call("sample.py", f"checkpoint={checkpoint}", "n=2", "prompt=a bag", cwd=tmp_path)
    assert run.status == 1 and "the model reads no text" in run.stderr.replace("\n", " ")


@pytest.mark.slow
def test_the_folder_of_samples_is_a_data_set(drawn, parts, tmp_path):
    shutil.copytree(drawn.folder / "images", tmp_path / "images")
    changed = ["data=image_folder", f"data.root={tmp_path / 'images'}", "data.channels=1", "data.resolution=28"]
    run = runs.train(tmp_path / "run", *overrides(parts), *changed, "data.validation=1", runs.NO_EVALUATION)
    assert run.checkpoint()["global_step"] == 2


@pytest.mark.slow
def test_a_thing_is_taught_beside_the_models_own_pictures(text_to_image, drawn, parts, tmp_path):
    """train.py init=… data=dreambooth adapter=lora, told by paths alone: codec and text encoder come along."""
    _, path = text_to_image
    shutil.copytree(drawn.folder / "images", tmp_path / "thing")
    (tmp_path / "thing/metadata.jsonl").unlink()
    few = ["data=dreambooth", f"data.root={tmp_path / 'thing'}", f"data.prior_root={drawn.folder / 'images'}"]
    shape = ["data.prompt=a photo of a zwx bag, black", "data.channels=1", "data.resolution=28"]
    kept = [o for o in runs.toy(runs.NO_EVALUATION, "data.validation=0") if not o.startswith(("model.", "sampler"))]
    arguments = [*kept, f"init={path}", *few, *shape, "adapter=lora", "callbacks=[latent_cache,checkpoints]"]
    arguments += ["conditioner.prompts=[a zwx bag]", "conditioner.dropout=0.2"]  # settings, not another encoder
    (tmp_path / "run").mkdir()
    run = runs.call("train.py", *runs.outputs(tmp_path / "run", *arguments), cwd=tmp_path / "run")
    assert run.status == 0, run.stderr
    started, ended = load_checkpoint(path)["state_dict"], run.checkpoint()["state_dict"]
    taken = [key for key in started if key.startswith(("codec.", "conditioner."))]
    assert taken and all(torch.equal(ended[key], started[key]) for key in taken)
    again = runs.sample(tmp_path / "again", run.last, "n=2", "prompt=a photo of a zwx bag", "adapter_scale=0")
    before = runs.sample(tmp_path / "before", path, "n=2", "prompt=a photo of a zwx bag")
    assert np.array_equal(pixels(again), pixels(before))


@pytest.mark.slow
def test_pictures_are_edited_by_texts(text_to_image, tmp_path):
    """Latents, guidance and texts: a photograph, and a picture that the model draws."""
    picture = tmp_path / "bag.png"
    Image.fromarray(np.random.default_rng(0).integers(256, size=(28, 28), dtype=np.uint8)).save(picture)

    def edit(name, *arguments):
        where = [f"checkpoint={text_to_image[1]}", "accelerator=cpu", "overwrite=true", "sampler.steps=2"]
        run = runs.call("edit.py", *runs.outputs(tmp_path / name, *where, f"edit={name}", *arguments), cwd=tmp_path)
        return run if run.status else {p.name: p.read_bytes() for p in sorted((tmp_path / name / "images").iterdir())}

    words = [f"image={picture}", "source_prompt=a bag", "prompt=a red bag"]
    for name in ("sdedit", "flow_edit", "ddpm_inversion", "inversion", "prompt_to_prompt"):
        made = edit(name, *words)
        assert list(made) == ["bag.png", "metadata.jsonl"] and b"a red bag" in made["metadata.jsonl"]
    weighted = edit("prompt_to_prompt", *words, "edit.weights={red: 5}")
    assert weighted["bag.png"] != made["bag.png"]
    drawn = edit("prompt_to_prompt", *words[1:], "n=2")
    (tmp_path / "sample").mkdir()
    same = edit(
        "prompt_to_prompt", "source_prompt=a bag", "prompt=a bag", "n=2", "edit.self_steps=0", "edit.cross_steps=0"
    )
    sampled = runs.sample(
        tmp_path / "sample", text_to_image[1], "prompt=a bag", "n=2", "sampler=ddim", "sampler.steps=2"
    )
    images = [np.asarray(Image.open(sampled.folder / "images" / f"00000{k}.png")).astype(int) for k in range(2)]
    made = [np.asarray(Image.open(tmp_path / "prompt_to_prompt" / "images" / f"00000{k}.png")) for k in range(2)]
    assert np.abs(np.stack(images) - np.stack(made)).max() <= 1 and same["000000.png"] != drawn["000000.png"]
    refused = edit("prompt_to_prompt", *words[1:], "edit.weights={green: 2}")
    assert refused.status == 1 and "edit.weights names green" in refused.stderr
    refused = edit("prompt_to_prompt", "prompt=a red bag")
    assert refused.status == 1 and "set source_prompt" in refused.stderr
