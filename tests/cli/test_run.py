"""Mistakes of the user: one line on stderr that says what to do, before any training, and no traceback."""

import numpy as np
import pytest
from PIL import Image

import runs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the mistakes need."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "empty").mkdir()
    (folder / "file").write_text("a regular file")
    (folder / "garbage.ckpt").write_bytes(np.random.default_rng(0).bytes(1000))
    return folder


# entry point, what is typed, what the line has to mention
MISTAKES = {
    "unknown option": ("train", ["sampler=huen"], ["sampler=huen", "Did you mean sampler=heun?"]),
    "unknown key": ("train", ["data.batchsize=4"], ["data.batchsize", "data.batch_size"]),
    "unknown key at the root": ("train", ["sede=1"], ["sede", "seed"]),
    "unknown group": ("train", ["smapler=ddim"], ["smapler", "sampler"]),
    "unknown callback": ("train", ["callbacks=[throughputs]"], ["throughput"]),
    "a word for a number": (
        "train",
        ["trainer.max_steps=many"],
        ["trainer.max_steps=many", "a whole number"],
    ),
    "syntax": ("train", ["data.batch_size"], ["data.batch_size"]),
    "no checkpoint given": ("sample", [], ["checkpoint=..."]),
    "missing checkpoint": ("sample", ["checkpoint=nowhere.ckpt"], ["nowhere.ckpt", "train.py"]),
    "missing checkpoint to evaluate": ("evaluate", ["checkpoint=nowhere.ckpt"], ["nowhere.ckpt", "train.py"]),
    "missing checkpoint to go on from": ("train", ["resume=nowhere.ckpt"], ["nowhere.ckpt", "train.py"]),
    "garbage checkpoint": ("sample", ["checkpoint={place}/garbage.ckpt"], ["garbage.ckpt", "use another"]),
    "garbage to go on from": ("train", ["resume={place}/garbage.ckpt"], ["garbage.ckpt", "use another"]),
    "another model": ("train", ["resume={checkpoint}", "model.channels=16"], ["model.channels: 8", "init="]),
    "another average": ("train", ["resume={checkpoint}", "ema=ema_constant"], ["constant", "init="]),
    "no steps": ("train", ["sampler.steps=0"], ["sampler.steps"]),
    "no steps of sampling": ("sample", ["checkpoint={checkpoint}", "sampler.steps=0"], ["sampler.steps"]),
    "nothing to draw": ("sample", ["checkpoint={checkpoint}", "n=0"], ["n=0", "1 or more"]),
    "nothing to measure": ("evaluate", ["checkpoint={checkpoint}", "n=0"], ["n=0", "2 or more"]),
    "nothing to measure in training": ("train", ["callbacks.sample_metrics.n=0"], ["sample_metrics.n"]),
    "nothing to look at": ("train", ["callbacks.sample_grid.n=0"], ["sample_grid.n"]),
    "no such average": ("sample", ["checkpoint={checkpoint}", "profile=best"], ["best", "choose profile=std0"]),
    "no such class": ("sample", ["checkpoint={checkpoint}", "label=10"], ["label=10", "0 to 9"]),
    "no such class in a list": ("sample", ["checkpoint={checkpoint}", "label=[1,-1]"], ["0 to 9"]),
    "empty folder": ("train", ["data=image_folder", "data.root={place}/empty"], ["empty", "data.root="]),
    "missing folder": ("train", ["data=image_folder", "data.root={place}/nowhere"], ["nowhere", "data.root="]),
    "no folder": ("train", ["data=image_folder"], ["data.root"]),
    "too small": ("train", ["data.resolution=2", "model.channel_mult=[1,1,1,1]"], ["data.resolution"]),
    "wrong number of classes": ("train", ["data.num_classes=7"], ["10 classes", "data.num_classes=10"]),
    "two numbers of classes": ("train", ["conditioner.num_classes=7"], ["7", "data.num_classes"]),
    "a batch that does not divide": (
        "train",
        ["data.batch_size=9", "trainer.accumulate_grad_batches=2"],
        ["data.batch_size=9", "set data.batch_size="],
    ),
    "all held out": ("train", ["data.validation=10000"], ["data.validation"]),
    "undefined at pure noise": ("train", ["parameterization=eps"], ["Eps", "schedule=vp", "parameterization=v"]),
    "guidance that was not trained": (
        "train",
        ["guidance.scale=2", "conditioner.dropout=0"],
        ["conditioner.dropout=0.1", "guidance=unguided"],
    ),
    "a part that contradicts the model": (
        "sample",
        ["checkpoint={checkpoint}", "sampler=adaptive", "guidance=cfg_pp"],
        ["CFGPP", "guidance=classifier_free"],
    ),
    "a missing weak model": (
        "sample",
        ["checkpoint={checkpoint}", "guidance=autoguidance", "guidance.weak.path=nowhere.ckpt"],
        ["there is no checkpoint nowhere.ckpt"],
    ),
    "a network without the variance of its loss": (
        "train",
        ["loss=hybrid"],
        ["2×28×28", "model.learned_variance=true"],
    ),
    "a weak model that is not named": ("sample", ["checkpoint={checkpoint}", "guidance=autoguidance"], ["weak.path"]),
    "unwritable outputs": ("train", ["hydra.run.dir={place}/file/run"], ["file", "hydra.run.dir"]),
    "unwritable cache": ("train", ["data.cache_dir={place}/file/cache"], ["file", "data.cache_dir"]),
    "unwritable samples": ("sample", ["checkpoint={checkpoint}", "hydra.run.dir={place}/file/run"], ["hydra.run.dir"]),
    "heads that do not divide": ("train", ["model.head_channels=5"], ["16 channels", "model.head_channels"]),
    "no metric to evaluate with": ("evaluate", ["checkpoint={checkpoint}", "metrics=[]"], ["metrics="]),
    "no such device": ("train", ["trainer.accelerator=abacus"], ["abacus"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line(mistake, place, checkpoint, tmp_path):
    script, typed, mentions = MISTAKES[mistake]
    typed = [t.format(place=place, checkpoint=checkpoint) for t in typed]
    arguments = runs.toy(*typed) if script == "train" else ["accelerator=cpu", *typed]
    run = runs.call(f"{script}.py", *runs.outputs(tmp_path / "run", *arguments), cwd=tmp_path)
    assert run.status == 1
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1, run.stderr
    assert run.stderr.endswith((".\n", "?\n", "...\n", "\n")) and len(run.stderr) < 500
    assert all(mention in run.stderr for mention in mentions), run.stderr
    assert "Traceback" not in run.stderr + run.stdout and "step" not in run.stdout
    assert not any(path.suffix in (".ckpt", ".jsonl", ".png") for path in tmp_path.rglob("*"))


def test_debug_shows_the_traceback(tmp_path):
    for typed in (["debug=default"], ["traceback=true"]):
        arguments = runs.toy("sampler.steps=0", *typed)
        run = runs.call("train.py", *runs.outputs(tmp_path / "run", *arguments), cwd=tmp_path)
        assert run.status == 1 and "Traceback" in run.stderr and "sampler.steps" in run.stderr


def test_other_errors_are_ours_and_show_where_they_come_from(tmp_path):
    cut = "+callbacks.cut={_target_: recorder.PowerCut, step: 0}"
    run = runs.call("train.py", *runs.outputs(tmp_path, *runs.toy(runs.NO_EVALUATION, cut)), cwd=tmp_path)
    assert run.status == 1 and "Traceback" in run.stderr and "ConnectionAbortedError" in run.stderr


@pytest.mark.slow
def test_a_sweep_ends_with_the_message_of_the_job_that_failed(tmp_path):
    arguments = ["-m", f"hydra.sweep.dir={tmp_path}", *runs.toy(runs.NO_EVALUATION, "sampler.steps=0,2")]
    run = runs.call("train.py", *arguments, cwd=tmp_path)
    assert run.status == 1 and "sampler.steps" in run.stderr.splitlines()[-1]


@pytest.fixture
def pictures(tmp_path):
    """Nine pictures and a damaged one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(9):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"good{i}.png")
    (folder / "bad.png").write_bytes((folder / "good0.png").read_bytes()[:60])
    return folder


def test_a_damaged_picture_is_named_counted_and_left_out(pictures, tmp_path):
    data = ["data=image_folder", f"data.root={pictures}", "data.resolution=16", "data.validation=1"]
    small = [f"data.cache_dir={tmp_path}", "metrics=[]", runs.NO_EVALUATION]
    run = runs.train(tmp_path / "run", *data, *small)
    (line,) = [line for line in run.stderr.splitlines() if "bad.png" in line]
    assert "left out of the data: 1 unreadable (bad.png: " in line and "good" not in line
    assert "Warning" not in run.stderr and "Traceback" not in run.stderr and list(run.logged("train/loss")) == [1, 2]


@pytest.mark.slow
def test_the_shell_sees_the_line_and_the_status(tmp_path):
    """What the tests above reconstruct inside of one process."""
    run = runs.shell("train.py", *runs.toy("parameterization=eps"), cwd=tmp_path)
    assert run.status == 1 and run.stdout == ""
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1 and "schedule=vp" in run.stderr
