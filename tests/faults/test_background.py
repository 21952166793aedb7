"""Runs whose checkpoints are written in the background, or in shards, end as those that write them at once."""

import pytest
import torch
from test_checkpoints import EVERY, KEPT, any_size, call, error_of, fault, warm  # noqa: F401, fixtures

import runs
from oboro.restore.checkpoint import forget_checkpoint, load_checkpoint

BACKGROUND, SHARDED = "callbacks.checkpoints.asynchronous=true", "callbacks.checkpoints.sharded=true"
WAYS = {"background": (BACKGROUND,), "shards": (SHARDED,), "both": (BACKGROUND, SHARDED)}
KEEP, BEST = "callbacks.checkpoints.keep_last=2", "callbacks.sample_metrics.every_n_steps=2"


def checkpoint(path):
    forget_checkpoint()
    return load_checkpoint(path)


def names(run):
    return sorted(path.name for path in run.last.parent.glob("*"))


@pytest.fixture(scope="module")
def at_once(warm, tmp_path_factory):  # noqa: F811
    return runs.train(tmp_path_factory.mktemp("at_once"), EVERY, KEEP, BEST, "trainer.max_steps=4")


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_that_which_writes_at_once(at_once, tmp_path, way):
    """All files, all that they hold, and all numbers that were logged."""
    run = runs.train(tmp_path, EVERY, KEEP, BEST, "trainer.max_steps=4", *WAYS[way])
    assert "best.ckpt" in names(run)
    assert [n for n in names(run) if n != "shards"] == names(at_once)
    for path in at_once.last.parent.glob("*.ckpt"):
        a, b = checkpoint(path), checkpoint(run.last.parent / path.name)
        assert a.keys() == b.keys() and all(runs.equal(a[key], b[key]) for key in {*a} - {"config"}), path
    assert run.logged("train/loss") == at_once.logged("train/loss")
    assert run.logged("fd_fashion_20") == at_once.logged("fd_fashion_20")
    shards = [path.name for path in (run.last.parent / "shards").glob("*")]
    steps = {checkpoint(path)["global_step"] for path in run.last.parent.glob("*.ckpt")}
    assert sorted(shards) == ([f"{step:08d}" for step in sorted(steps)] if SHARDED in WAYS[way] else [])


@pytest.mark.slow
def test_samples_metrics_and_going_on_are_those_of_one_file(at_once, tmp_path):
    run = runs.train(tmp_path / "run", EVERY, BEST, "trainer.max_steps=2", SHARDED)
    whole = runs.train(tmp_path / "whole", EVERY, BEST, "trainer.max_steps=2")
    for values in (
        [runs.evaluate(tmp_path / f"e{i}", r.last, "n=20", "chunk=8")["values"] for i, r in enumerate((run, whole))],
        [runs.sample(tmp_path / f"s{i}", r.last, "n=3").images for i, r in enumerate((run, whole))],
    ):
        assert values[0] == values[1]
    for back, more in (("shards", ()), ("one file", ("callbacks.checkpoints.sharded=false",))):
        again = runs.train(tmp_path / back, f"resume={run.last}", "trainer.max_steps=4", *more)
        assert (again.last.parent / "shards").exists() == (not more)
        assert all(runs.equal(checkpoint(again.last)[key], checkpoint(at_once.last)[key]) for key in KEPT)
    begun = runs.train(tmp_path / "init", f"init={run.last}", runs.NO_EVALUATION, "trainer.max_steps=1")
    assert begun.checkpoint()["global_step"] == 1


def test_a_full_disk_is_said_at_the_next_checkpoint(warm, any_size, tmp_path):  # noqa: F811
    faults = (fault("full_disk", "saving", 2), fault("free_disk", "saving", 4, name="end"))
    settings = (runs.NO_EVALUATION, EVERY, "callbacks.checkpoints.keep_last=9", "trainer.max_steps=4", BACKGROUND)
    run = runs.train(tmp_path, *settings, *faults)
    said = [line for line in run.stderr.splitlines() if "could not be written" in line]
    assert ["of step 2" in said[0], "of step 3" in said[1], len(said)] == [True, True, 2]
    assert [name for name in names(run) if name.endswith(".ckpt")] == [
        "last.ckpt",
        "step-00000001.ckpt",
        "step-00000004.ckpt",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_run_whose_last_checkpoint_cannot_be_written_fails(warm, any_size, tmp_path, way):  # noqa: F811
    settings = (runs.NO_EVALUATION, EVERY, "trainer.max_steps=3", *WAYS[way])
    run = call(tmp_path, *settings, fault("full_disk", "saving", 2))
    assert run.status == 1 and "the last checkpoint, of step 3, could not be written" in error_of(run)
    assert checkpoint(run.last)["global_step"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_metric_that_fails_costs_no_step(warm, tmp_path, way):  # noqa: F811
    settings = (EVERY, KEEP, BEST, "trainer.max_steps=2", *WAYS[way])
    cut = call(tmp_path, *settings, fault("raise", "evaluation", 2))
    assert cut.status == 1 and checkpoint(cut.last)["global_step"] == 2
    assert "step-00000002.ckpt" in names(cut)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_numbers_that_are_none_end_the_run_and_the_one_before_is_whole(warm, tmp_path, way):  # noqa: F811
    settings = (runs.NO_EVALUATION, EVERY, "trainer.max_steps=3", *WAYS[way])
    run = call(tmp_path, *settings, fault("nan_weights", "saving", 2))
    assert run.status == 1 and "is not finite at step 2" in error_of(run)
    assert checkpoint(run.last)["global_step"] == 1


@pytest.mark.slow
def test_a_rollback_goes_back_to_what_was_being_written(warm, tmp_path):  # noqa: F811
    settings = (runs.NO_EVALUATION, EVERY, "divergence=rollback", "trainer.max_steps=4", fault("nan_batch", step=2))
    a, b = (runs.train(tmp_path / name, *settings, *way) for name, way in {"a": (), "b": WAYS["both"]}.items())
    assert "step 2" in a.stderr and a.stderr.count("goes back") == b.stderr.count("goes back")
    assert all(runs.equal(checkpoint(a.last)[key], checkpoint(b.last)[key]) for key in KEPT)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_signal_leaves_a_whole_checkpoint(warm, tmp_path, way):  # noqa: F811
    run = call(tmp_path, runs.NO_EVALUATION, EVERY, "trainer.max_steps=5", *WAYS[way], fault("sigterm", "step", 2))
    assert run.status == 143 and checkpoint(run.last)["global_step"] == 2 and "goes on" in run.stderr
    again = runs.train(tmp_path, runs.NO_EVALUATION, f"resume={run.last}", "trainer.max_steps=3")
    assert checkpoint(again.last)["global_step"] == 3


@pytest.mark.slow
def test_a_damaged_one_in_shards_is_passed_over_loudly(warm, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    run = runs.train(folder, runs.NO_EVALUATION, EVERY, KEEP, "trainer.max_steps=2", SHARDED)
    for file in (run.last.parent / "shards" / "00000002").iterdir():
        file.write_bytes(file.read_bytes()[:-9])
    forget_checkpoint()
    again = call(folder, runs.NO_EVALUATION, EVERY, KEEP, "trainer.max_steps=3", SHARDED, "resume=auto")
    assert again.status == 0 and "passes over a damaged checkpoint: last.ckpt" in again.stderr
    assert "step-00000001.ckpt, step 1" in again.stderr and checkpoint(again.last)["global_step"] == 3


@pytest.mark.slow
def test_what_a_killed_run_was_writing_goes_when_it_goes_on(warm, tmp_path):  # noqa: F811
    run = runs.train(tmp_path, runs.NO_EVALUATION, EVERY, "trainer.max_steps=2", SHARDED)
    half = run.last.parent / "shards" / "00000003"
    half.mkdir()
    torch.save({}, half / "00000.safetensors.partial")
    again = runs.train(tmp_path, runs.NO_EVALUATION, SHARDED, f"resume={run.last}", "trainer.max_steps=3")
    assert [path.name for path in (again.last.parent / "shards").iterdir()] == ["00000003"]
    assert [path.name for path in half.iterdir()] == ["00000.safetensors"] and checkpoint(again.last)[
        "global_step"
    ] == 3
