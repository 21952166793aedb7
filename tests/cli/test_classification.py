"""A classifier of noisy images as a user trains it, and what it does to the samples of a denoiser."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from oboro.modality import from_uint8
from oboro.restore import Trained
from oboro.task.noise_levels import LEVELS

LEARNED = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step")
SETTINGS = ("model.dropout=0.5", "loss/time=loss_aware", "loss.time.bins=2", "loss.time.history=2")
SIX = (runs.CLASSIFICATION, "trainer.max_steps=6", "callbacks.checkpoints.every_n_steps=3", *SETTINGS)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> runs.Run:
    """Forty steps, with the callbacks of the task."""
    enough = ("trainer.max_steps=40", "trainer.val_check_interval=40", "optimizer.lr=0.01", "data.batch_size=16")
    return runs.train(tmp_path_factory.mktemp("classifier"), runs.CLASSIFICATION, "data.validation=48", *enough)


def test_a_run_tells_loss_and_accuracy_of_every_noise_level(classifier):
    row = next(row for row in classifier.rows if "val/loss" in row)
    for name in ("loss", "accuracy"):
        levels = [row[f"val/{name}_noise{k}"] for k in range(LEVELS)]
        assert row[f"val/{name}"] == pytest.approx(np.mean(levels), rel=0.1)  # low discrepancy: equal shares, almost
    assert 0.1 < row["val/accuracy_noise0"] <= 1 and row["val/loss_noise0"] < np.log(10)
    losses = list(classifier.logged("train/loss").values())
    assert losses[0] == pytest.approx(np.log(10), rel=1e-5)  # every class is as likely
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    names = {path.name for path in classifier.folder.iterdir()}
    assert names == {".hydra", ".running", "checkpoints", "metrics.jsonl", "train.log"}
    assert "classifier of noisy images" in " ".join(classifier.stdout.replace("│", " ").split())


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path):
    """Cut off in step 5, after the checkpoint of step 3; bit for bit, as ``Diffusion`` is."""
    quiet = (*SIX, runs.NO_EVALUATION)
    straight = runs.train(tmp_path / "straight", *quiet)
    cut = runs.toy(*quiet, "+callbacks.cut={_target_: recorder.PowerCut, step: 4, batches: 0}")
    interrupted = runs.call("train.py", *runs.outputs(tmp_path / "cut", *cut), cwd=tmp_path)
    assert interrupted.status == 1 and "the power is gone" in interrupted.stderr
    last = runs.Run(1, "", "", tmp_path / "cut").last
    resumed = runs.train(tmp_path / "resumed", *quiet, f"resume={last}")
    assert list(resumed.logged("train/loss")) == [4, 5, 6]
    first, second = (run.checkpoint() for run in (straight, resumed))
    assert all(runs.equal(first[key], second[key]) for key in LEARNED)
    assert int(first["state_dict"]["loss.time.counts"].sum()) == 6 * 8


@pytest.mark.slow
def test_guidance_draws_what_the_classifier_takes_for_the_label(classifier, checkpoint, tmp_path):
    judge = Trained(classifier.last, "classification").module
    size = (f"guidance.classifier.path={classifier.last}", "n=10", "chunk=10")

    def drawn(*overrides: str) -> tuple[list[bytes], float]:
        """The images, and the mean of log p(label | x) in them."""
        images = runs.sample(tmp_path / "draw", checkpoint, *overrides).images
        pixels = [torch.from_numpy(np.array(Image.open(io.BytesIO(image)))) for image in images]
        x = from_uint8(torch.stack(pixels)[:, None])
        log_p = judge(x, torch.full((10,), 1e-3)).log_softmax(1)
        return images, float(log_p.diagonal().mean())

    plain, before = drawn("n=10", "chunk=10")
    assert drawn("guidance=classifier", *size, "guidance.scale=0")[0] == plain
    guided, after = drawn("guidance=classifier", *size, "guidance.scale=20")
    away, worse = drawn("guidance=classifier", *size, "guidance.scale=-20")
    assert guided != plain and away != plain and worse < before < after


@pytest.fixture
def mistakes(classifier, checkpoint):
    """Entry point, what is typed, what the line has to mention."""
    ours, other = (f"is a checkpoint of task={task}" for task in ("diffusion", "classification"))
    to_classifier, to_denoiser = "with task=classification", "with task=diffusion"
    here = [f"checkpoint={checkpoint}", "n=2"]
    guided = [*here, "guidance=classifier"]
    return [
        ("sample.py", [f"checkpoint={classifier.last}", "sampler.steps=3"], [other, to_denoiser]),
        ("evaluate.py", [f"checkpoint={classifier.last}"], [other, to_denoiser]),
        ("sample.py", [*guided, f"guidance.classifier.path={checkpoint}"], [ours, to_classifier]),
        ("sample.py", [*here, "guidance=autoguidance", f"guidance.weak.path={classifier.last}"], [other, to_denoiser]),
        ("sample.py", guided, ["set guidance.classifier.path="]),
        ("train.py", ["model=unet_encoder_tiny"], ["UNetEncoder makes 10", "choose model=unet_tiny"]),
        ("train.py", [runs.CLASSIFICATION, "model=unet_tiny"], ["UNet makes 1×28×28", "model=unet_encoder_tiny"]),
        ("train.py", [runs.CLASSIFICATION, "callbacks=[sample_grid]"], ["SampleGrid", "leave it out of callbacks="]),
        ("train.py", [runs.CLASSIFICATION, "data.num_classes=0"], ["labelled data", "set data.num_classes"]),
        ("train.py", ["task=diffusion", f"resume={classifier.last}"], ["is a checkpoint of task=classification"]),
    ]


@pytest.mark.slow
def test_what_does_not_fit_the_task_ends_in_one_line(mistakes, tmp_path):
    for script, typed, mentions in mistakes:
        arguments = runs.toy(*typed) if script == "train.py" else ["accelerator=cpu", *typed]
        run = runs.call(script, *runs.outputs(tmp_path / "run", *arguments), cwd=tmp_path)
        errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
        assert run.status == 1 and len(errors) == 1 and "Traceback" not in run.stderr, run.stderr
        assert all(mention in errors[0] for mention in mentions), run.stderr
