"""CLIP as a user trains it."""

import pytest
import torch

import runs
from oboro.base.errors import UserError
from oboro.data import FashionCaptions
from oboro.extractor import TrainedCLIP
from oboro.metrics.clip_score import clip_score
from oboro.modality import from_uint8
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.rebuild import build_task

LEARNED = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step")
SIX = (runs.CLIP, "trainer.max_steps=6", "callbacks.checkpoints.every_n_steps=3")
SIGLIP = ("loss=siglip", "model.bias=-10", "model.scale=10")
PROMPTS = "[a t-shirt,trousers,a pullover,a dress,a coat,a sandal,a shirt,a sneaker,a bag,a boot]"
MERGES = "clip.text.tokenizer.merges"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> runs.Run:
    """Forty steps, with the callbacks of the task."""
    steps = ("trainer.max_steps=40", "trainer.val_check_interval=40", "data.batch_size=64", "optimizer.lr=0.003")
    size = ("model.image.channels=[8,16]", "model.text.dim=16", "data.validation=200", f"task.prompts={PROMPTS}")
    return runs.train(tmp_path_factory.mktemp("clip"), runs.CLIP, *steps, *size)


@pytest.fixture(scope="module")
def pairs(trained) -> tuple[torch.Tensor, list[str]]:
    """The held-out images, uint8, and their captions."""
    data = FashionCaptions(part="test", validation=200, cache_dir=str(runs.cache_dir()))
    data.prepare_data()
    data.setup()
    return data.validation.samples[torch.arange(200)], data.validation.captions


def test_a_run_learns_which_words_go_with_which_pictures(trained):
    losses = list(trained.logged("train/loss").values())
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5
    row = next(row for row in trained.rows if "val/loss" in row)
    assert row["val/accuracy"] > 0.25  # 0.1 by chance
    assert row["val/image_to_text_r1"] <= row["val/image_to_text_r5"] and row["val/text_to_image_r5"] > 0.05
    assert {path.name for path in trained.folder.iterdir()} == {
        ".hydra",
        ".running",
        "checkpoints",
        "metrics.jsonl",
        "train.log",
    }
    shown = " ".join(trained.stdout.replace("│", " ").split())
    assert "CLIP, 0.0" in shown and "ConvTower and text tower of 16 tokens" in shown


def test_the_checkpoint_is_an_extractor_of_images_and_texts(trained, pairs):
    images, captions = pairs
    extractor = TrainedCLIP(str(trained.last))
    extractor.prepare()
    found, texts = extractor(images)["features"], extractor.embed_text(captions)
    task = build_task(load_checkpoint(trained.last))
    with torch.no_grad(), task.averaged():
        assert torch.equal(found, task.clip.encode_image(from_uint8(images)))
        assert torch.equal(texts, task.clip.encode_text(captions))
    assert found.shape[1] == extractor.outputs["features"] and len(extractor.digest) == 64
    right, wrong = (clip_score(found, t).mean() for t in (texts, texts.roll(1, 0)))
    assert right > wrong + 10  # of 100

    colour = extractor(images.expand(-1, 3, -1, -1))["features"]
    torch.testing.assert_close(colour, found, rtol=0, atol=1e-4)
    flat = torch.tensor([0, 90, 255], dtype=torch.uint8)[:, None, None, None]
    big, small = (extractor(flat.expand(3, 1, side, side))["features"] for side in (61, 28))
    torch.testing.assert_close(big, small, rtol=0, atol=1e-4)


def test_an_extractor_wants_a_checkpoint_of_this_task(tmp_path):
    other = runs.train(tmp_path / "other", runs.NO_EVALUATION).last
    with pytest.raises(UserError, match="is a checkpoint of task=diffusion"):
        TrainedCLIP(str(other)).prepare()
    with pytest.raises(UserError, match="there is no checkpoint"):
        TrainedCLIP(str(tmp_path / "none.ckpt")).prepare()


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path):
    """Bit for bit, with the merges of its checkpoint."""
    quiet = (*SIX, *SIGLIP, runs.NO_EVALUATION)
    straight = runs.train(tmp_path / "straight", *quiet)
    cut = runs.toy(*quiet, "+callbacks.cut={_target_: recorder.PowerCut, step: 4, batches: 0}")
    interrupted = runs.call("train.py", *runs.outputs(tmp_path / "cut", *cut), cwd=tmp_path)
    assert interrupted.status == 1 and "the power is gone" in interrupted.stderr
    last = runs.Run(1, "", "", tmp_path / "cut").last
    resumed = runs.train(tmp_path / "resumed", *quiet, f"resume={last}")
    first, second = (run.checkpoint() for run in (straight, resumed))
    assert all(runs.equal(first[key], second[key]) for key in LEARNED)
    assert (first["state_dict"][MERGES] >= 0).all()

    content = torch.load(last, weights_only=True)
    content["state_dict"][MERGES][20:] = -1  # fewer than the captions would give
    torch.save(content, last)
    fewer = runs.train(tmp_path / "fewer", *quiet, f"resume={last}").checkpoint()
    assert torch.equal(fewer["state_dict"][MERGES], content["state_dict"][MERGES])


def test_mistakes_end_in_one_line(tmp_path):
    mistakes = [
        (["data=fashion_mnist_10k"], ["FashionMNIST has none", "choose data=fashion_captions"]),
        (["callbacks=[sample_grid]"], ["SampleGrid", "leave it out of callbacks="]),
        (["model.text.vocab_size=200"], ["set model.text.vocab_size above 259"]),
    ]
    for typed, mentions in mistakes:
        arguments = runs.toy(runs.CLIP, *typed)
        run = runs.call("train.py", *runs.outputs(tmp_path / "run", *arguments), cwd=tmp_path)
        errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
        assert run.status == 1 and len(errors) == 1 and "Traceback" not in run.stderr, run.stderr
        assert all(mention in errors[0] for mention in mentions), run.stderr
