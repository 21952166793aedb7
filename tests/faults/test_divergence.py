"""Losses and gradients that are no numbers: no rank takes the step, and what follows is as it was chosen."""

import json
import math

import lightning
import processes
import pytest
from lightning.pytorch.plugins import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import runs
from oboro.base.json_text import read_json
from oboro.cli.resume_auto import newest
from oboro.restore.evaluated import read_outcomes

CHECKPOINTS = ("callbacks=[checkpoints]", "callbacks.checkpoints.every_n_steps=2")
HALF = "1e-4"  # of optimizer.lr


def fault(does: str, **settings) -> str:
    values = "".join(f", {name}: {value}" for name, value in settings.items())
    return f"+callbacks.fault={{_target_: injection.Fault, does: {does}{values}}}"


def train(folder, *overrides: str) -> runs.Run:
    """A run of six steps that may fail."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = runs.toy(*CHECKPOINTS, "trainer.max_steps=6", *overrides)
    return runs.call("train.py", *runs.outputs(folder, *arguments), cwd=folder)


def listed(folder) -> list[dict]:
    return [read_json(line) for line in (folder / "diverged.jsonl").read_text().splitlines()]


def state(checkpoint: dict) -> dict:
    """What a step changes."""
    return {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "ema")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> runs.Run:
    """Three steps in which nothing happens."""
    return runs.succeeded(train(tmp_path_factory.mktemp("plain"), "trainer.max_steps=3"))


@pytest.mark.parametrize(
    "does, reason",
    [
        ("nan_batch", "the loss of 1 of 8 samples is NaN (row "),
        ("infinite_loss", "the loss of 1 of 8 samples is infinite (row "),
        ("infinite_gradient", "the gradient of the denoiser is NaN or infinite (denoiser."),
    ],
)
def test_training_ends_before_the_step_and_names_the_reason(does, reason, tmp_path):
    run = train(tmp_path, fault(does, step=3))
    assert run.status == 1
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert f"in step 4 {reason}" in line and f"{run.last} of step 2" in line and "optimizer.lr" in line
    (event,) = listed(tmp_path)
    assert event["step"] == 4 and len({sample["index"] for sample in event["samples"]}) == 8
    broken = [sample for sample in event["samples"] if not math.isfinite(sample["loss"])]
    assert [f"(row {sample['index']} " in line for sample in broken] == [True] * (does != "infinite_gradient")
    assert run.checkpoint()["global_step"] == 2


@pytest.mark.slow
def test_the_samples_are_those_of_the_step_in_all_its_micro_batches(tmp_path):
    whole = train(tmp_path / "whole", fault("infinite_gradient", step=3))
    parts = train(tmp_path / "parts", "trainer.accumulate_grad_batches=2", fault("infinite_gradient", step=3))
    samples = [listed(run.folder)[0]["samples"] for run in (whole, parts)]
    assert [s["index"] for s in samples[0]] == [s["index"] for s in samples[1]]
    assert [s["micro_batch"] for s in samples[1]] == [0] * 4 + [1] * 4


def test_a_step_that_is_left_out_changes_nothing(plain, tmp_path):
    run = runs.succeeded(train(tmp_path, "divergence=skip", "trainer.max_steps=4", fault("nan_batch", step=3)))
    assert runs.equal(state(run.checkpoint()), state(plain.checkpoint()))
    assert run.checkpoint()["global_step"] == 4
    assert run.checkpoint()["divergence"]["skipped"] == 1
    assert run.logged("skipped_steps") == {4: 1.0} and "the step is left out" in run.stderr


@pytest.mark.slow
def test_what_a_loss_remembers_stays_as_it_was(tmp_path):
    """Of a step that is left out it would remember NaN."""
    aware = ("loss/time=loss_aware", "divergence=skip")
    run = runs.succeeded(train(tmp_path / "a", *aware, "trainer.max_steps=4", fault("nan_batch", step=3)))
    short = runs.succeeded(train(tmp_path / "b", *aware, "trainer.max_steps=3"))
    assert short.checkpoint()["state_dict"]["loss.time.counts"].sum() > 0
    assert runs.equal(state(run.checkpoint()), state(short.checkpoint()))


def test_steps_that_are_left_out_are_bounded(tmp_path):
    run = train(tmp_path, "divergence=skip", "divergence.most=2", fault("nan_batches", step=1))
    assert run.status == 1 and "in step 4 " in run.stderr and "2 steps in a row before it were left out" in run.stderr
    assert [event["step"] for event in listed(tmp_path)] == [2, 3, 4]


@pytest.mark.slow
def test_a_rollback_is_a_resume_with_a_lower_rate(tmp_path):
    boards = "logger=[jsonl,tensorboard]"
    shown = "callbacks=[checkpoints,summary]"
    run = runs.succeeded(train(tmp_path / "a", "divergence=rollback", boards, shown, fault("nan_batch", step=3)))
    assert "goes back to step 2" in run.stderr
    assert "6 steps of 8, 1 step more taken again, 56 images" in run.stdout
    start = runs.succeeded(train(tmp_path / "b", "trainer.max_steps=2"))
    resumed = train(tmp_path / "c", f"resume={start.last}", f"optimizer.lr={HALF}")
    assert runs.equal(state(run.checkpoint())["state_dict"], state(runs.succeeded(resumed).checkpoint())["state_dict"])
    assert runs.equal(run.checkpoint()["ema"], resumed.checkpoint()["ema"])
    assert run.logged("train/loss") == start.logged("train/loss") | resumed.logged("train/loss")
    assert run.checkpoint()["divergence"]["rate"] == 0.5
    board = EventAccumulator(str(run.folder / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_rollback_to_the_start_is_a_run_with_a_lower_rate(tmp_path):
    """It validates where that does, and not before its first step."""
    usual = ("trainer.val_check_interval=2", "trainer.max_steps=4")
    run = runs.succeeded(train(tmp_path / "a", "divergence=rollback", fault("nan_batch", step=1), *usual))
    plain = runs.succeeded(train(tmp_path / "b", f"optimizer.lr={HALF}", *usual))
    assert "goes back to step 0" in run.stderr
    assert runs.equal(run.checkpoint()["state_dict"], plain.checkpoint()["state_dict"])
    assert run.logged("val/loss") == plain.logged("val/loss") and list(run.logged("val/loss")) == [2, 4]


def scores(*values: float) -> str:
    """Of the steps, in the order in which they are taken."""
    return f"+callbacks.scores={{_target_: injection.Scores, scores: {list(values)}}}"


@pytest.mark.slow
def test_the_best_checkpoint_stays_where_a_rollback_goes_behind_its_step(tmp_path):
    """That of step 3, which no other file has, is the best that was measured; of step 3 as it is taken again, and of
    those after it, none is better until the last. What is noted is the value of the file."""
    usual = ("divergence=rollback", fault("nan_batch", step=3))
    values = (5.0, 5.5, 3.0, 4.0, 4.5, 6.0)
    plain = runs.succeeded(train(tmp_path / "plain", "trainer.max_steps=3"))
    run = runs.succeeded(train(tmp_path / "a", *usual, scores(*values, 7.0)))
    assert "goes back to step 2" in run.stderr
    best = run.checkpoint("best")
    assert best["global_step"] == 3 and runs.equal(state(best), state(plain.checkpoint()))
    outcomes = read_outcomes(run.last.parent)
    assert {step: outcome["best"] for step, outcome in outcomes.items()} == {1: 5.0, **dict.fromkeys(range(2, 7), 3.0)}
    run = runs.succeeded(train(tmp_path / "b", *usual, scores(*values, 2.0)))
    assert run.checkpoint("best")["global_step"] == 6 and read_outcomes(run.last.parent)[6]["best"] == 2.0


@pytest.mark.slow
def test_a_run_does_not_go_on_from_the_best_of_steps_that_a_rollback_has_left(tmp_path):
    """It ends before it has come by that step again: a second time NaN, and no more ways back."""
    typed = ("divergence=rollback", "divergence.most=1", fault("nan_batches", step=3), scores(5.0, 4.0, 3.0))
    run = train(tmp_path, *typed)
    assert run.status == 1 and "has gone back 1 times already" in run.stderr, run.stderr
    assert [run.checkpoint(name)["global_step"] for name in ("last", "best")] == [2, 3]
    again = train(tmp_path, scores(*[6.0] * 4), "resume=auto")
    assert again.status == 0 and "last.ckpt, step 2" in again.stderr, again.stderr
    assert again.checkpoint("best")["global_step"] == 3
    run.last.write_bytes(b"")
    assert newest(tmp_path)[0] == run.last.with_name("best.ckpt")  # where there is no other


def test_rollbacks_are_bounded_and_begin_at_the_start(tmp_path):
    run = train(tmp_path, "divergence=rollback", "divergence.most=1", fault("nan_batches", step=1))
    assert run.status == 1 and "goes back to step 0" in run.stderr
    assert "has gone back 1 times already" in run.stderr


def test_weights_that_the_optimizer_makes_no_numbers_are_rolled_back(tmp_path):
    """Before a checkpoint of them is written, which would be the one to go back to."""
    run = runs.succeeded(train(tmp_path, "divergence=rollback", fault("nan_update", step=3)))
    assert "in step 4 the optimizer has made weights of the denoiser NaN or infinite" in run.stderr
    assert "goes back to step 2" in run.stderr
    assert all(w.isfinite().all() for w in run.checkpoint()["state_dict"].values())


@pytest.mark.slow
def test_a_spike_of_the_gradient_is_left_out(tmp_path):
    steps = ("trainer.max_steps=24", "divergence=skip", "divergence.spike=1e3")
    run = runs.succeeded(train(tmp_path, *steps, fault("large_gradient", step=22)))
    assert "times the median" in run.stderr and run.logged("skipped_steps") == {23: 1.0}


@pytest.mark.slow
def test_a_tangent_that_explodes_is_left_out(tmp_path):
    """Of sCT, which normalises it: its gradient is as long as before."""
    loss = ("loss=continuous_consistency", "loss.warmup_steps=0", "sampler=ddim_consistency", "sampler.steps=1")
    run = train(tmp_path, *loss, "trainer.max_steps=24", "divergence=skip", fault("large_batch", step=22))
    assert "in step 23 the tangent has the norm" in runs.succeeded(run).stderr
    assert run.logged("skipped_steps") == {23: 1.0}


def test_each_of_two_networks_is_watched(tmp_path):
    folder = ("task=autoencoder", "callbacks=[]")
    arguments = runs.toy(*folder, "trainer.max_steps=4", fault("infinite_gradient", step=2))
    run = runs.call("train.py", *runs.outputs(tmp_path, *arguments), cwd=tmp_path)
    assert run.status == 1 and "in step 3 the gradient of the autoencoder" in run.stderr


def scaled(does: str, *overrides: str) -> tuple[lightning.Trainer, object]:
    """Four steps with a gradient scaler."""
    from injection import Fault

    trainer, task, data = runs.built("trainer.max_steps=4", *overrides, callbacks=[Fault(does, step=1)])
    trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu")  # which the trainer denies a CPU
    trainer.fit(task, data)
    return trainer, task


@pytest.mark.slow
def test_an_overflow_of_16_bits_is_left_to_the_scaler(tmp_path, monkeypatch):
    """The scaler halves its factor; no average counts the step."""
    monkeypatch.chdir(tmp_path)
    trainer, task = scaled("infinite_gradient")
    assert trainer.precision_plugin.scaler.get_scale() == 2**15
    assert task.ema.updates == 3 and task.guard.record.skipped == 0


def test_a_loss_that_is_no_number_is_not_the_scalers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer, task = scaled("nan_batch", "divergence=skip")
    assert trainer.precision_plugin.scaler.get_scale() == 2**16
    assert task.ema.updates == 3 and task.guard.record.skipped == 1


TWO = ("trainer.devices=2", "trainer.max_steps=4", *CHECKPOINTS)


@pytest.mark.slow
@pytest.mark.parametrize("does", ["nan_batch", "infinite_loss"])
def test_what_one_rank_meets_all_see(does, tmp_path):
    run = processes.train(tmp_path, *TWO, fault(does, step=3, rank=1))
    assert run.status == 1 and not run.orphans and run.soon(15)
    assert "1 of 8 samples is" in run.stderr and "on rank 1" in run.stderr
    assert run.stderr.count("error: ") == 1 and "Traceback" not in run.stderr
    assert sorted(sample["rank"] for sample in listed(tmp_path)[0]["samples"]) == [0] * 4 + [1] * 4
    assert run.checkpoint()["global_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_two_ranks_go_on_together(policy, tmp_path):
    run = processes.train(tmp_path, *TWO, f"divergence={policy}", fault("nan_batch", step=3, rank=1))
    assert run.status == 0 and not run.orphans, run.stderr
    record = run.checkpoint()["divergence"]
    assert (record["skipped"], record["rollbacks"]) == ((1, 0) if policy == "skip" else (0, 1))
    assert json.dumps(record) and run.checkpoint()["global_step"] == 4
