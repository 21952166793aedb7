"""What is due after a step is done once, whatever ends the run before, within or after it: SIGKILL, too."""

import json
from pathlib import Path

import processes
import pytest
from test_ends import SIX, TWO, call, fault, learned, rows, straight_on_two  # noqa: F401, a fixture

import runs
from oboro.callbacks import SampleMetrics
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.evaluated import FILE, due, going_on_from, read_outcomes, unfinished, write_outcomes
from oboro.task import Task

OFTEN = (*SIX, "callbacks.checkpoints.every_n_steps=2")
ALL = ["SampleMetrics 1", "SampleGrid 1", "validation", "row"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> runs.Run:
    return runs.train(tmp_path_factory.mktemp("straight"), *OFTEN)


@pytest.fixture
def steps(monkeypatch) -> dict[str, list[int]]:
    """At which steps was measured and validated since: rows that are there already are not written again."""
    seen: dict[str, list[int]] = {"measured": [], "validated": []}
    measure, validate = SampleMetrics.evaluate, Task.on_validation_epoch_start

    def measured(callback, trainer, task):
        seen["measured"].append(trainer.global_step)
        return measure(callback, trainer, task)

    def validated(task):
        seen["validated"].append(task.global_step)
        return validate(task)

    monkeypatch.setattr(SampleMetrics, "evaluate", measured)
    monkeypatch.setattr(Task, "on_validation_epoch_start", validated)
    return seen


def killed(folder: Path, *words: str) -> None:
    assert processes.forked(lambda: call(folder, *words)) == -9


def left(folder: Path) -> list[str]:
    """What the last checkpoint still has to come."""
    path = folder / "checkpoints" / "last.ckpt"
    return unfinished(load_checkpoint(path), path)


def as_if_nothing_was(run: runs.Run, straight: runs.Run) -> bool:
    """The same bits in the checkpoints, the same rows, pictures and results."""
    texts = [(r.folder / "result.json").read_text() for r in (run, straight)]
    outcomes = [read_outcomes(r.last.parent) for r in (run, straight)]
    pictures = [{p.name: p.read_bytes() for p in (r.folder / "samples").iterdir()} for r in (run, straight)]
    bits = all(runs.equal(learned(run, name), learned(straight, name)) for name in ("last", "best"))
    same = outcomes[0] == outcomes[1] and texts[0] == texts[1]
    return bits and same and pictures[0] == pictures[1] and rows(run) == rows(straight)


@pytest.mark.slow
def test_kills_at_every_moment_after_a_step_leave_the_run_that_nobody_killed(straight, steps, tmp_path):
    """Seven in one run, at the step of a checkpoint in its middle and at its last one: in what is done, and in what is
    made up when it goes on."""
    for when, step, missing in [
        ("evaluation", 2, ["SampleMetrics 1", "validation", "row"]),
        ("validation", 2, ["validation"]),
        ("validation", 4, ["validation"]),
        ("evaluation", 6, ALL),
        ("grid", 6, ["SampleGrid 1", "validation"]),
        ("validation", 6, ["validation"]),
    ]:
        killed(tmp_path, *OFTEN, "resume=auto", fault("sigkill", when, step=step))
        assert left(tmp_path) == missing
    run = call(tmp_path, *OFTEN, "resume=auto")
    assert run.status == 0 and as_if_nothing_was(run, straight), run.stderr
    assert steps == {"measured": [], "validated": [6]}
    assert left(tmp_path) == []
    again = call(tmp_path, *OFTEN, "resume=auto")
    assert again.status == 0 and "nothing is left to do" in again.stderr


@pytest.mark.slow
def test_what_was_made_up_after_a_signal_is_not_repeated_after_a_crash(straight, steps, tmp_path):
    """Though no later checkpoint holds it: in the validation of step 4; then an error and a kill in step 6."""
    assert call(tmp_path, *OFTEN, fault("sigterm", "validation", step=4)).status == 143
    for does, status in (("raise", 1), ("sigkill", -9)):
        crash = fault(does, "batch", step=5)
        assert processes.forked(lambda crash=crash: call(tmp_path, *OFTEN, f"resume={tmp_path}", crash)) == status
        assert left(tmp_path) == []
    run = call(tmp_path, *OFTEN, f"resume={tmp_path}")
    assert run.status == 0 and as_if_nothing_was(run, straight), run.stderr
    assert steps["validated"] == [2, 4, 6]  # until the signal in that of step 4, and in the last run


@pytest.mark.slow
@pytest.mark.parametrize(("step", "does"), [(4, "sigkill"), (6, "sigkill"), (4, "sigterm")])
def test_of_two_that_measure_the_first_is_not_repeated_where_the_second_is_cut(steps, tmp_path, step, does):
    """The best checkpoint and the results follow the first, though another process has measured it."""
    more = "every_n_steps: 2, n: 30, chunk: 8, extractor: ${extractor}, metrics: ${metrics}"
    two = (*OFTEN, f"+callbacks.second={{_target_: oboro.callbacks.SampleMetrics, {more}}}")
    cut = fault(does, "evaluation", step=step, others=1)
    straight = runs.train(tmp_path / "straight", *two)
    folder = tmp_path / "cut"
    status = processes.forked(lambda: call(folder, *two, cut))
    assert status == {"sigkill": -9, "sigterm": 143}[does]
    assert "SampleMetrics 2" in left(folder) and "SampleMetrics 1" not in left(folder)
    steps["measured"].clear()
    run = call(folder, *two, "resume=auto")
    assert run.status == 0 and as_if_nothing_was(run, straight), run.stderr
    assert steps["measured"] == [step, *[6, 6] * (step < 6)]


@pytest.mark.slow
def test_the_end_of_a_run_that_ends_early_is_made_up(tmp_path):
    """Killed in the measuring with which ``should_stop`` ends it, at a step at which nothing else is due."""
    usual = ("trainer.max_steps=5", "callbacks=[sample_metrics,checkpoints]")
    faults = (fault("stop", "batch", step=2), fault("sigkill", "evaluation", step=3).replace(".fault=", ".kill="))
    killed(tmp_path, *usual, *faults)
    assert left(tmp_path) == ["SampleMetrics 1"]
    run = call(tmp_path, *usual, "resume=auto")
    assert run.status == 0 and list(run.logged("fd_fashion_20")) == [3, 5], run.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)  # four runs of two ranks each
def test_ranks_make_up_what_was_cut_and_end_together_within_it(straight_on_two, tmp_path):  # noqa: F811
    """SIGKILL of one rank in a metric; when both go on, a signal to one in the metric that is made up."""
    often = (*SIX, *TWO, "callbacks.checkpoints.every_n_steps=2")
    run = processes.train(tmp_path, *often, fault("sigkill", "evaluation", step=4, rank=1))
    assert run.status == 1 and not run.orphans and "SampleMetrics 1" in left(tmp_path), run.stderr
    again = (*often, f"resume={tmp_path}")
    run = processes.train(tmp_path, *again, fault("sigterm", "evaluation", step=4, rank=1))
    assert run.status == 143 and not run.orphans and run.soon(10), run.stderr
    assert run.checkpoint()["global_step"] == 4 and "SampleMetrics 1" in left(tmp_path)
    run = processes.train(tmp_path, *again)
    assert run.status == 0, run.stderr
    assert runs.equal(learned(run), learned(straight_on_two)) and rows(run) == rows(straight_on_two)


def test_outcomes_of_a_course_that_was_left_go_but_for_the_best(tmp_path):
    """``best.ckpt`` stays what it is, and what it is worth stays with it."""
    outcomes = {
        2: {"best": 5.0, "measure": "fd", "done": {"validation": {}}},
        4: {
            "done": {"SampleMetrics 1": {"numbers": {"fd": 3.0}, "objective": ["fd", 3.0]}},
            "best": 3.0,
            "measure": "fd",
        },
        6: {"done": {"validation": {}}},
    }
    write_outcomes(tmp_path, outcomes)
    assert read_outcomes(tmp_path) == outcomes
    assert going_on_from(tmp_path, 6, outcomes) == outcomes
    assert going_on_from(tmp_path, 2, outcomes) == {2: outcomes[2]}
    (tmp_path / "best.ckpt").touch()
    assert going_on_from(tmp_path, 2, outcomes) == {2: {**outcomes[2], "best": 3.0}}
    assert going_on_from(tmp_path, 0, outcomes) == {0: {"best": 3.0, "measure": "fd"}}


def test_outcomes_that_are_none_count_for_nothing(tmp_path):
    """Of another form, or damaged: then all that is due is done."""
    odd = [3, {"best": "low"}, {"done": []}, {"done": {"a": 1}}, {"done": {"a": {"numbers": {"fd": "x"}}}}]
    odd += [{"done": {"a": {"objective": values}}} for values in ("fd", ["fd"], [1, 2], ["fd", "x"])]
    good = {"done": {"a": {}}}
    (tmp_path / FILE).write_text(json.dumps({**{str(k): value for k, value in enumerate(odd)}, "99": good}))
    assert read_outcomes(tmp_path) == {99: good}
    checkpoint = {"global_step": 99, "due": {"names": ["a", "b", 7], "row": {"loss": 1.0, "odd": []}}}
    assert unfinished(checkpoint, tmp_path / "last.ckpt") == ["b"] and due(checkpoint)[1] == {"loss": 1.0}
    (tmp_path / FILE).write_bytes(b"\xff{")
    assert read_outcomes(tmp_path) == {} and unfinished(checkpoint, tmp_path / "last.ckpt") == ["a", "b"]
    for spoiled in ({}, {"due": 3}, {"due": {"names": "ab"}}):
        assert due(spoiled) == ([], {})
