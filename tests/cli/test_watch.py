"""Watching a run: each checkpoint once, and an end whenever the run has one."""

import os

import pytest
import torch

import runs
from oboro.base.errors import UserError
from oboro.cli import evaluate
from oboro.cli.checkpoint import latest_checkpoint
from oboro.cli.running import LOCK, is_running, release, take
from oboro.cli.watch import new_checkpoints


class Clock:
    """Time that passes where somebody waits; ``then`` are what happens during each wait, in turn."""

    def __init__(self, *then):
        self.time, self.then = 0.0, list(then)

    def wait(self, seconds):
        self.time += seconds
        if self.then:
            self.then.pop(0)()

    def now(self):
        return self.time


def put(path, text):
    """Replace a file as training does."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(text)
    os.replace(beside, path)


def test_a_run_is_going_on_as_long_as_its_block_and_no_longer(tmp_path):
    assert is_running(tmp_path) is None, "nothing is known of a run without a lock"
    take(tmp_path, "train")
    assert is_running(tmp_path) is True
    release(tmp_path)
    assert is_running(tmp_path) is False


def test_every_new_file_is_given_until_the_run_has_ended(tmp_path):
    """The last file, written when the run was still going on, is not missed."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    take(tmp_path, "train")

    def end():
        put(path, "3")
        release(tmp_path)

    clock = Clock(lambda: put(path, "1"), lambda: None, lambda: put(path, "2"), lambda: None, end)
    found = [p.read_text() for p in new_checkpoints(tmp_path, 0, clock.wait, clock.now)]
    assert found == ["1", "2", "3"] and clock.then == []


def test_a_run_of_which_nothing_is_known_is_left_after_a_while(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    put(path, "1")
    clock = Clock(lambda: None, lambda: put(path, "2"))
    found = [p.read_text() for p in new_checkpoints(tmp_path, 60, clock.wait, clock.now)]
    assert found == ["1", "2"] and 60 < clock.now() < 90


@pytest.mark.slow
def test_a_run_that_died_is_measured_once_even_if_its_file_is_replaced_meanwhile(tmp_path, monkeypatch):
    run = runs.train(tmp_path / "run", runs.NO_EVALUATION)
    assert is_running(run.folder) is False
    content = torch.load(run.last, weights_only=True)
    content["config"]["trainer"]["max_steps"] = 10
    torch.save(content, run.last)
    measured, measure = [], evaluate.measure

    def replaced_meanwhile(*arguments):
        measured.append(run.last.stat().st_ino)
        if len(measured) == 1:
            beside = run.last.with_suffix(".partial")
            torch.save(content, beside)
            os.replace(beside, run.last)
        return measure(*arguments)

    monkeypatch.setattr(evaluate, "measure", replaced_meanwhile)
    arguments = [f"watch={run.folder}", "accelerator=cpu", "n=12", "chunk=6", "metrics=[frechet]"]
    done = runs.succeeded(runs.call("evaluate.py", *runs.outputs(tmp_path / "out", *arguments), cwd=tmp_path))
    assert len(measured) == 1 and done.stdout.count("step 2: fd_fashion_12") == 1
    assert done.stdout.endswith(f"{run.folder} has ended, at step 2 of 10\n")


def test_a_run_that_died_before_its_first_checkpoint_ends_in_one_line(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / LOCK).touch()
    run = runs.call("evaluate.py", f"watch={tmp_path}", cwd=tmp_path)
    assert run.status == 1 and "has ended without a checkpoint; see" in run.stderr.splitlines()[-1]


def test_the_first_checkpoint_is_not_waited_for_without_end(tmp_path):
    """Where nothing says whether the run goes on; where it does go on, it is."""
    (tmp_path / ".hydra").mkdir()
    clock = Clock()
    with pytest.raises(UserError, match=r"no checkpoint for 60 seconds.*idle="):
        latest_checkpoint(tmp_path, 60, clock.wait, clock.now)
    assert 60 < clock.now() < 90
    take(tmp_path, "train")
    clock = Clock(*[lambda: None] * 100, lambda: put(tmp_path / "checkpoints" / "last.ckpt", "1"))
    try:
        assert latest_checkpoint(tmp_path, 60, clock.wait, clock.now).read_text() == "1"
    finally:
        release(tmp_path)
