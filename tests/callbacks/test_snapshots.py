"""Snapshots of a run: when they are written, what is in them, and that the average of another width comes out."""

from types import SimpleNamespace

import pytest
import torch
from lightning import Callback

import runs
from oboro.base.errors import UserError
from oboro.callbacks import Snapshots
from oboro.ema import EMA, PowerFunction
from oboro.ema.posthoc import posthoc, read_snapshots


class Tracker(Callback):
    """Averages of another width, tracked directly, with a look at the task's own after each step."""

    def __init__(self, std):
        self.ema = EMA({"wanted": PowerFunction(std)})
        self.seen = {}

    def on_train_start(self, trainer, task):
        self.ema.start(task.denoiser)

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.ema.update(task.denoiser)
        averages = task.ema.state_dict(task.denoiser)["averages"]
        self.seen[trainer.global_step] = {a: {k: w.clone() for k, w in of.items()} for a, of in averages.items()}


def fit(*overrides, callbacks):
    trainer, task, data = runs.built("optimizer.lr=0.01", *overrides, callbacks=callbacks)
    with torch.random.fork_rng(devices=[]):
        trainer.fit(task, data)
    return task


def vector(weights):
    return torch.cat([w.detach().double().flatten() for w in weights])


@pytest.mark.slow
def test_an_average_made_afterwards_is_the_one_tracked_in_the_run(tmp_path):
    """As near as a hundredth of its distance from the last weights, and it can be put into the task."""
    tracker = Tracker(0.15)
    task = fit("trainer.max_steps=24", callbacks=[Snapshots(str(tmp_path), 2), tracker])
    made = posthoc(tmp_path, 0.15)
    tracked, last = vector(tracker.ema.averages["wanted"]), vector(task.denoiser.parameters())
    task.ema.add("made", made, task.denoiser)
    with task.averaged("made"):
        found = vector(task.denoiser.parameters())
    assert (found - tracked).norm() < 0.01 * (last - tracked).norm()
    for profile in task.ema.averages:  # no other average is as near
        if profile != "made":
            assert (vector(task.ema.averages[profile]) - tracked).norm() > 0.1 * (last - tracked).norm()


def test_a_file_has_the_averages_of_its_step(tmp_path):
    """Those with a width; the names are those of the weights."""
    constant = "+ema.profiles.constant={_target_: oboro.ema.ConstantDecay, decay: 0.9, warmup: 9.0}"
    tracker = Tracker(0.15)
    fit("trainer.max_steps=3", constant, callbacks=[Snapshots(str(tmp_path), 2), tracker])
    snapshots = read_snapshots(tmp_path)
    assert [(s.step, s.updates, s.path.name) for s in snapshots] == [
        (2, 2, "00000002.safetensors"),
        (3, 3, "00000003.safetensors"),
    ]
    assert "constant" in tracker.seen[2]
    for snapshot in snapshots:
        assert snapshot.stds == {"std005": 0.05, "std010": 0.10}
    for name, std in snapshots[0].stds.items():
        found = posthoc(tmp_path, std, 2)
        expected = tracker.seen[2][name]
        assert found.keys() == expected.keys()
        assert all(torch.allclose(found[k], expected[k], rtol=1e-6, atol=1e-6) for k in found)


def steps_written(task, folder, max_steps, every=None, first=True):
    """The steps of a run whose trainer only counts."""
    snapshots = Snapshots(str(folder), every)
    trainer = SimpleNamespace(max_steps=max_steps, is_global_zero=first, callbacks=[snapshots])
    snapshots.setup(trainer, task, "fit")
    for step in range(1, max_steps + 1):
        trainer.global_step = step
        snapshots.on_train_batch_end(trainer, task, None, None, step - 1)
    return [int(path.stem) for path in sorted(folder.iterdir())] if folder.exists() else []


def test_they_are_spread_over_the_run_unless_told_otherwise(tmp_path):
    """Twenty, or one a step in a shorter run; always the last step; and one rank writes."""
    _, task, _ = runs.built()
    assert steps_written(task, tmp_path / "a", 200) == list(range(10, 201, 10))
    assert steps_written(task, tmp_path / "b", 50) == list(range(2, 51, 2))
    assert steps_written(task, tmp_path / "c", 3) == [1, 2, 3]
    assert steps_written(task, tmp_path / "d", 9, every=4) == [4, 8, 9]
    assert steps_written(task, tmp_path / "e", 9, every=0) == [9]
    assert steps_written(task, tmp_path / "f", 3, first=False) == []


def test_a_run_without_power_functions_is_refused_before_it_starts(tmp_path):
    with pytest.raises(UserError, match=r"choose ema=ema\.$"):
        fit("ema=ema_constant", callbacks=[Snapshots(str(tmp_path))])
    assert not list(tmp_path.iterdir())


def test_they_join_the_other_callbacks_of_a_run():
    """``+callbacks=snapshots`` adds to the list."""
    usual, more = runs.composed()["callbacks"], runs.composed("+callbacks=snapshots")["callbacks"]
    assert more == {**usual, "snapshots": more["snapshots"]}
    assert more["snapshots"]["folder"] == "outputs/snapshots"


def test_the_command_line_writes_them(tmp_path):
    run = runs.train(tmp_path, "callbacks=[checkpoints,snapshots]", "trainer.max_steps=2")
    average = run.checkpoint()["ema"]["averages"]["std010"]
    made = posthoc(tmp_path / "snapshots", 0.10)
    assert made.keys() == average.keys()
    assert all(torch.allclose(made[k], average[k], rtol=1e-6, atol=1e-6) for k in average)
