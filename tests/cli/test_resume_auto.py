"""``resume=auto``: the same command starts a run, goes on with it, and leaves it alone once it is finished."""

import os
import shutil
from pathlib import Path

import pytest

import runs
from oboro.cli.resume_auto import newest
from oboro.cli.running import LOCK

SIX = (runs.NO_EVALUATION, "callbacks.checkpoints.every_n_steps=2", "trainer.max_steps=6")
CUT = "+callbacks.cut={_target_: recorder.PowerCut, step: 5, batches: 0}"
AUTO = "resume=auto"
LEARNED = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step")


def train(folder: Path, *typed: str, settings: tuple[str, ...] = SIX) -> runs.Run:
    run = runs.call("train.py", *runs.outputs(folder, *runs.toy(*settings, *typed)), cwd=folder.parent)
    return runs.Run(run.status, run.stdout, run.stderr, folder)


def learned(run: runs.Run) -> dict:
    checkpoint = run.checkpoint()
    return {key: checkpoint[key] for key in LEARNED}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> runs.Run:
    return runs.succeeded(train(tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory) -> Path:
    """The folder of a run that began with ``resume=auto`` and was cut off after step 5, with a checkpoint of step 4."""
    run = train(tmp_path_factory.mktemp("cut") / "run", AUTO, CUT)
    assert run.status == 1 and "the power is gone" in run.stderr
    assert "run has no checkpoint; the run begins at step 0" in run.stderr
    return run.folder


@pytest.fixture
def folder(cut_off, tmp_path) -> Path:
    return Path(shutil.copytree(cut_off, tmp_path / "run"))


@pytest.mark.slow
def test_the_same_command_begins_goes_on_and_is_done(folder, whole):
    """As if it had not been cut off, to the last bit; and a finished run ends well without another step."""
    began = (folder / ".hydra" / "config.yaml").read_bytes()
    run = runs.succeeded(train(folder, AUTO))
    assert f"resume=auto: the run goes on from {folder}/checkpoints/last.ckpt, step 4" in run.stderr
    assert runs.equal(learned(run), learned(whole)) and list(run.logged("train/loss")) == [1, 2, 3, 4, 5, 6]
    assert (folder / ".hydra" / "config.yaml").read_bytes() == began
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.suffix in (".ckpt", ".jsonl", ".json")}
    again = runs.succeeded(train(folder, AUTO))
    assert again.stderr.splitlines()[-1] == f"the run in {folder} is finished; nothing is left to do"
    assert {p: p.read_bytes() for p in before} == before
    more = runs.succeeded(train(folder, AUTO, "trainer.max_steps=8"))
    assert more.checkpoint()["global_step"] == 8


def test_a_damaged_checkpoint_is_passed_over_loudly(folder):
    last = folder / "checkpoints" / "last.ckpt"
    shutil.copy(last, last.with_name("best.ckpt"))
    last.write_bytes(last.read_bytes()[:5000])
    (folder / "checkpoints" / "last.ckpt.partial").write_bytes(b"half")
    run = runs.succeeded(train(folder, AUTO))
    assert "warning: resume=auto passes over a damaged checkpoint: last.ckpt:" in run.stderr
    assert "goes on from" in run.stderr and "best.ckpt, step 4" in run.stderr
    assert run.checkpoint()["global_step"] == 6


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(folder, damage):
    last = folder / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2] if damage is None else damage)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != LOCK}
    run = train(folder, AUTO)
    assert run.status == 1 and len(run.stderr.splitlines()) == 1
    assert "none of the checkpoints in" in run.stderr and "last.ckpt" in run.stderr
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != LOCK} == before


def test_the_newest_is_the_one_of_the_latest_step(folder, whole):
    """Not the one that was written last; of one step the one that is called so."""
    place = folder / "checkpoints"
    os.utime(shutil.copy(whole.last, place / "step.ckpt"), (0, 0))
    assert newest(folder) == (place / "step.ckpt", [])
    shutil.copy(whole.last, place / "last.ckpt")
    os.utime(place / "last.ckpt", (0, 0))
    assert newest(folder) == (place / "last.ckpt", [])


def test_what_is_typed_beside_it_is_compared(folder):
    refused = train(folder, AUTO, "model.channels=16")
    assert refused.status == 1 and "model.channels: 8 in the checkpoint, 16 now" in refused.stderr
    short = runs.call("train.py", *runs.outputs(folder, AUTO, "optimizer.lr=1e-5"), cwd=folder)
    assert short.status == 0 and "optimizer.lr: " in short.stderr and "1e-05 now" in short.stderr


@pytest.mark.slow
def test_a_run_that_began_from_weights_goes_on_from_its_own(whole, tmp_path):
    init = (f"init={whole.last}", AUTO)
    cut = train(tmp_path / "run", *init, CUT)
    assert cut.status == 1 and "the power is gone" in cut.stderr
    run = runs.succeeded(train(tmp_path / "run", *init))
    straight = runs.succeeded(train(tmp_path / "straight", f"init={whole.last}"))
    assert "goes on from" in run.stderr and runs.equal(learned(run), learned(straight))


@pytest.mark.slow
def test_the_folder_may_follow_from_the_configuration(tmp_path):
    named = "hydra.run.dir=" + str(tmp_path / "runs" / "${seed}")
    cut = runs.call("train.py", named, *runs.toy(*SIX, AUTO, CUT, "seed=3"), cwd=tmp_path)
    assert "the power is gone" in cut.stderr
    run = runs.succeeded(runs.call("train.py", named, *runs.toy(*SIX, AUTO, "seed=3"), cwd=tmp_path))
    assert f"goes on from {tmp_path}/runs/3/checkpoints/last.ckpt, step 4" in run.stderr


@pytest.mark.slow
def test_a_file_of_options_may_say_it(whole, tmp_path):
    """With the weights that the run begins from, which it is without once it goes on."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "requeued.yaml").write_text(
        f"# @package _global_\nresume: auto\ninit: {whole.last}\nhydra: {{run: {{dir: {tmp_path}/run}}}}\n"
    )
    typed = ("--config-dir", str(tmp_path / "mine"), "experiment=requeued", *runs.toy(*SIX))
    cut = runs.call("train.py", *typed, CUT, cwd=tmp_path)
    assert "run has no checkpoint; the run begins at step 0" in cut.stderr and "the power is gone" in cut.stderr
    run = runs.succeeded(runs.call("train.py", *typed, cwd=tmp_path))
    assert f"goes on from {tmp_path}/run/checkpoints/last.ckpt, step 4" in run.stderr


def test_a_folder_by_the_clock_has_nothing_to_go_on_with(tmp_path):
    run = runs.call("train.py", *runs.toy(*SIX, AUTO), cwd=tmp_path)
    assert run.status == 1 and "name it with hydra.run.dir=<folder>" in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_early_end_is_an_end(tmp_path):
    """A requeued job does not train on after a stop that was planned, unless its end is moved."""
    stop, folder = "+callbacks.stop={_target_: recorder.Stop, step: 4}", tmp_path / "run"
    runs.succeeded(train(folder, AUTO, stop))
    again = runs.succeeded(train(folder, AUTO, stop))
    assert "is finished; nothing is left to do" in again.stderr
    assert runs.succeeded(train(folder, AUTO)).checkpoint()["global_step"] == 6
