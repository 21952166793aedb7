"""A run loses no checkpoint, and nothing that it measured, to a full disk, a kill or a metric that fails."""

import resource

import processes
import pytest
import torch

import runs
from oboro.base.errors import UserError
from oboro.callbacks.disk_space import GB, Room
from oboro.restore.checkpoint import forget_checkpoint, load_checkpoint
from oboro.restore.evaluated import read_outcomes, unfinished

EVERY = "callbacks.checkpoints.every_n_steps=1"
KEPT = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step")


def fault(does, when="step", step=1, name="fault", **more):
    settings = ", ".join(f"{k}: {v}" for k, v in ({"does": does, "when": when, "step": step} | more).items())
    return f"+callbacks.{name}={{_target_: injection.Fault, {settings}}}"


def call(folder, *overrides):
    folder.mkdir(parents=True, exist_ok=True)
    forget_checkpoint()
    return runs.call("train.py", *runs.outputs(folder, *runs.toy(*overrides)), cwd=folder)


@pytest.fixture
def any_size():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def error_of(run):
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in run.stderr
    return line


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """Data and reference are in the cache: what is written then is the run's alone."""
    return runs.train(tmp_path_factory.mktemp("warm"), "trainer.max_steps=1")


def test_training_goes_on_where_the_disk_is_full_and_saves_when_it_is_not(warm, any_size, tmp_path):
    faults = (fault("full_disk", step=1), fault("free_disk", step=3, name="end"))
    run = runs.train(
        tmp_path, runs.NO_EVALUATION, EVERY, "callbacks.checkpoints.keep_last=9", "trainer.max_steps=4", *faults
    )
    said = [line for line in run.stderr.splitlines() if "could not be written" in line]
    assert ["of step 2" in said[0], "of step 3" in said[1], len(said)] == [True, True, 2]
    names = sorted(path.name for path in run.last.parent.glob("*.ckpt*"))
    assert names == ["last.ckpt", "step-00000001.ckpt", "step-00000004.ckpt"]
    assert [run.checkpoint(name)["global_step"] for name in ("step-00000001", "last")] == [1, 4]


def test_a_run_whose_last_checkpoint_cannot_be_written_fails_and_keeps_the_one_before(warm, any_size, tmp_path):
    run = call(tmp_path, runs.NO_EVALUATION, EVERY, "trainer.max_steps=3", fault("full_disk", step=1))
    assert run.status == 1 and "the last checkpoint, of step 3, could not be written" in error_of(run)
    assert run.checkpoint()["global_step"] == 1 and load_checkpoint(run.last)
    assert [path.name for path in run.last.parent.glob("*.ckpt*")] == ["last.ckpt"]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [pytest.param(4, marks=pytest.mark.slow), 2])
def test_a_metric_that_fails_costs_no_step_and_is_measured_when_the_run_goes_on(warm, tmp_path, steps):
    """In the middle, and at the last step, after which nothing is left to train."""
    every = (EVERY, "callbacks.sample_metrics.every_n_steps=2", f"trainer.max_steps={steps}")
    straight = runs.train(tmp_path / "straight", *every)
    cut = call(tmp_path / "cut", *every, fault("raise", "evaluation", 2))
    assert cut.status == 1 and cut.checkpoint()["global_step"] == 2
    assert "SampleMetrics 1" in unfinished(cut.checkpoint(), cut.last)
    resumed = call(tmp_path / "cut", f"resume={cut.last}", f"trainer.max_steps={steps}")
    assert resumed.status == 0, resumed.stderr
    measured = [run.logged("fd_fashion_20") for run in (straight, resumed)]
    assert measured[0] == measured[1] and list(measured[0]) == list(range(2, steps + 1, 2))
    best, expected = (run.checkpoint("best") for run in (resumed, straight))
    assert all(runs.equal(best[key], expected[key]) for key in KEPT)
    assert read_outcomes(resumed.last.parent) == read_outcomes(straight.last.parent)
    assert (resumed.folder / "result.json").read_text() == (straight.folder / "result.json").read_text()
    before = resumed.rows
    again = call(tmp_path / "cut", f"resume={resumed.last}", f"trainer.max_steps={steps + 1}")
    assert again.status == 0 and again.rows[: len(before)] == before  # what was measured is not measured again
    assert list(again.logged("fd_fashion_20")) == [*measured[0], steps + 1]
    ended = call(tmp_path / "cut", f"resume={again.last}", f"trainer.max_steps={steps + 1}")
    assert ended.status == 1 and "is already at step" in error_of(ended)


@pytest.mark.slow
def test_the_last_ones_stay_and_one_step_is_one_file(warm, tmp_path):
    settings = ("callbacks.sample_metrics.every_n_steps=1", "callbacks.checkpoints.keep_last=2", EVERY)
    run = runs.train(tmp_path, *settings, "trainer.max_steps=4")
    folder = run.last.parent
    assert {path.name for path in folder.glob("step-*")} == {"step-00000003.ckpt", "step-00000004.ckpt"}
    assert run.last.stat().st_ino == (folder / "step-00000004.ckpt").stat().st_ino
    outcomes = read_outcomes(folder)
    best = run.checkpoint("best")["global_step"]
    assert outcomes[best]["best"] == outcomes[4]["best"] == min(run.logged("fd_fashion_20").values())
    back = runs.train(tmp_path, f"resume={folder / 'step-00000003.ckpt'}", "trainer.max_steps=5")
    assert {path.name for path in folder.glob("step-*")} == {"step-00000004.ckpt", "step-00000005.ckpt"}
    assert list(read_outcomes(folder)) == [1, 2, 3, 4, 5] and back.checkpoint()["global_step"] == 5


@pytest.mark.parametrize("key", ["optimizer_states", "lr_schedulers", "loops"])
def test_a_checkpoint_without_a_part_of_the_state_of_training_is_refused_in_one_line(warm, tmp_path, key):
    content = warm.checkpoint()
    for i, changed in enumerate((None, {} if key == "loops" else [])):
        kept = {k: v for k, v in content.items() if k != key} | ({} if changed is None else {key: changed})
        path = tmp_path / f"{i}.ckpt"
        torch.save(kept, path)
        run = call(tmp_path / str(i), f"resume={path}", "trainer.max_steps=3")
        assert run.status == 1 and f"init={path}" in error_of(run)


@pytest.mark.slow
def test_a_state_of_an_optimizer_that_is_not_the_models_is_refused_and_its_rate_is_the_runs(warm, tmp_path):
    """An absurd learning rate in the file is of no effect: the configuration has it."""
    content = warm.checkpoint()
    (state,) = content["optimizer_states"]
    first = state["state"][0]
    rates = [{**group, "lr": 1e9, "initial_lr": 1e9} for group in state["param_groups"]]
    fewer = [{**group, "params": group["params"][:-1]} for group in state["param_groups"]]
    changes = {
        "empty": {"state": {}},
        "of another shape": {"state": {**state["state"], 0: {**first, "exp_avg": first["exp_avg"].flatten()}}},
        "fewer": {"param_groups": fewer},
        "rates": {"param_groups": rates},
        "none": {},
    }
    ended = {}
    for name, change in changes.items():
        path = tmp_path / f"{name.replace(' ', '_')}.ckpt"
        torch.save({**content, "optimizer_states": [{**state, **change}]}, path)
        ended[name] = call(tmp_path / name, runs.NO_EVALUATION, f"resume={path}", "trainer.max_steps=2")
    assert "is empty" in error_of(ended["empty"]) and "exp_avg of weight 0" in error_of(ended["of another shape"])
    assert "weights and the model has" in error_of(ended["fewer"])
    assert all(runs.equal(*(ended[name].checkpoint()[key] for name in ("rates", "none"))) for key in KEPT)


def test_room_is_looked_at_before_training(tmp_path, caplog):
    room = Room(file=int(2 * GB), beside=int(3 * GB))
    with pytest.raises(UserError, match=r"takes about 5 GB and .* has 4 GB left; make room"):
        room.check(tmp_path, files=1, free=int(4 * GB))
    room.check(tmp_path, files=2, free=int(9 * GB))
    assert not caplog.records
    room.check(tmp_path, files=2, free=int(8 * GB))
    assert "2 checkpoints, and one more while it is written, take about 9 GB" in caplog.text
    caplog.clear()
    (tmp_path / "frozen").mkdir()
    (tmp_path / "frozen" / "part.safetensors").touch()
    room.check(tmp_path, files=2, free=int(6 * GB))  # what is there already is not written again
    assert not caplog.records


def test_the_size_is_known_before_the_first_step(warm, tmp_path):
    """Within a hundredth of the weights, but for what the archive takes for each of them."""
    trainer, task, data = runs.built("trainer.max_steps=1")
    seen = []

    class Seen(runs.lightning.Callback):
        def on_train_start(self, trainer, task):
            seen.append(Room.of(trainer, task, 100).file)

        def on_train_end(self, trainer, task):
            seen.append(Room.of(trainer, task, 100).file)

    trainer.callbacks.append(Seen())
    with torch.random.fork_rng(devices=[]):
        trainer.fit(task, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    names = len(task.state_dict()) * 5
    size = (tmp_path / "a.ckpt").stat().st_size
    assert seen[0] == pytest.approx(seen[1], rel=0.01) and seen[0] < size < 1.01 * seen[0] + 400 * names


@pytest.mark.slow
def test_a_kill_in_the_middle_of_writing_leaves_the_checkpoint_before_it(warm, tmp_path):
    """Where the folder for temporary files is on another file system, from which a move is a copy."""
    killed = processes.train(
        tmp_path,
        runs.NO_EVALUATION,
        EVERY,
        "trainer.max_steps=4",
        fault("sigkill", "writing", 3),
        env={"TMPDIR": "/dev/shm"},
    )
    folder = killed.last.parent
    assert killed.status == -9 and {path.name for path in folder.glob("*.ckpt*")} == {"last.ckpt", "last.ckpt.partial"}
    assert load_checkpoint(killed.last)["global_step"] == 2
    resumed = runs.train(tmp_path, runs.NO_EVALUATION, f"resume={killed.last}", "trainer.max_steps=4")
    assert [path.name for path in folder.glob("*.ckpt*")] == ["last.ckpt"] and resumed.checkpoint()["global_step"] == 4


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_first_rank_ends_all_of_them(warm, tmp_path):
    run = processes.train(
        tmp_path,
        runs.NO_EVALUATION,
        EVERY,
        "trainer.max_steps=3",
        "trainer.devices=2",
        "trainer.strategy=ddp",
        fault("full_disk", step=1),
    )
    assert run.status == 1 and not run.orphans
    assert "the last checkpoint, of step 3" in error_of(run)
    assert run.checkpoint()["global_step"] == 1
