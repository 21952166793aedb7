"""Ranks that die, fail or hang: all end, soon, with the first error and a checkpoint that is whole."""

import os
import re
import signal
import socket

import processes
import pytest
import torch
from PIL import Image
from torch.distributed import run

import runs
from oboro.cli.ranks import MARK
from oboro.restore.checkpoint import load_checkpoint

TWO = ("trainer.devices=2", "trainer.max_steps=6", "callbacks=[checkpoints]", "callbacks.checkpoints.every_n_steps=2")
LAST = 2  # the step of the checkpoint before the fault


def fault(does: str, rank: int, step: int = 3) -> str:
    return f"+callbacks.fault={{_target_: injection.Fault, does: {does}, step: {step}, rank: {rank}}}"


def broken(folder, *overrides: str, within: float) -> processes.Ended:
    """A run of two ranks that a fault ends: on all of them, ``within`` seconds, with the checkpoint of before."""
    run = processes.train(folder, *TWO, *overrides)
    assert run.status != 0 and not run.orphans and run.soon(within), (run, run.stderr)
    assert load_checkpoint(run.last)["global_step"] == LAST
    return run


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_on_one_rank_ends_all_and_is_the_one_that_is_shown(tmp_path, rank):
    run = broken(tmp_path, fault("raise", rank), within=15)
    assert f"rank {rank} met the injected error" in run.stderr
    assert run.stderr.count("Traceback") == 1, run.stderr
    if rank == 1:
        assert "error: rank 1 ended with status 1 (its own error is above), and the others cannot go on" in run.stderr


@pytest.mark.slow
def test_a_mistake_that_one_rank_alone_meets_is_shown(tmp_path):
    """Of data, for example, of which each rank reads its own part."""
    run = broken(tmp_path, fault("mistake", 1), within=15)
    lines = [row for row in run.stderr.splitlines() if "error:" in row or "rank 1" in row]
    line = "error: rank 1 failed (rank 1 cannot read its samples; remedy it), and the others cannot go on without it."
    assert lines == [line] and "Traceback" not in run.stderr, run.stderr


@pytest.mark.slow
def test_a_mistake_that_one_rank_of_torchrun_alone_meets_is_shown_once(tmp_path):
    """Before the ranks have met, of files that are not on its machine, and after."""
    launcher = ("--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(runs.ROOT / "train.py"))
    (tmp_path / "pictures/0").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "pictures/0/a.png")
    own_files = [f"data.root={tmp_path}/pictures/${{oc.env:LOCAL_RANK}}", "data=image_folder", "data.validation=0"]
    for fails, words in ([fault("mistake", 1)], "cannot read its samples"), (own_files, "pictures/1"):
        typed = [*runs.toy(*TWO, *fails), f"hydra.run.dir={tmp_path / 'run'}", "overwrite=true"]
        ended = processes.run(run.__file__, *launcher, *typed, folder=tmp_path)
        assert ended.status != 0 and not ended.orphans
        (line,) = (row for row in ended.stderr.splitlines() if row.startswith("error:"))
        assert line.startswith("error: rank 1: ") and words in line


@pytest.mark.slow
def test_a_killed_rank_is_named(tmp_path):
    run = broken(tmp_path, fault("sigkill", 1), within=15)
    assert "error: rank 1 was ended by SIGKILL (as systems do that run out of memory)" in run.stderr
    assert "Traceback" not in run.stderr, run.stderr


@pytest.mark.slow
def test_no_rank_outlives_the_first(tmp_path):
    run = broken(tmp_path, fault("sigkill", 0), within=15)
    assert run.status == -9


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank_is_named_with_its_step(tmp_path, rank):
    run = broken(tmp_path, fault("sigstop", rank), "rank_timeout=5", within=40)
    assert re.search(
        f"error: rank {rank} has given no sign of life for 5 s; its last one was at step [0-3], and rank {1 - rank} "
        "waits after step 3.\n",
        run.stderr,
    )


@pytest.mark.slow
def test_a_port_that_is_taken_is_left_to_its_owner(tmp_path):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        run = processes.train(tmp_path, *TWO, env={"MASTER_PORT": str(port)})
    assert run.status == 0 and f"port {port} (MASTER_PORT) is taken" in run.stdout, run.stderr
    assert torch.load(run.last, weights_only=True)["global_step"] == 6


@pytest.mark.slow
def test_a_killed_rank_of_an_evaluation_is_named(tmp_path):
    trained = runs.train(tmp_path / "trained", runs.NO_EVALUATION)
    folder = tmp_path / "evaluation"
    arguments = runs.outputs(folder, f"checkpoint={trained.last}", "accelerator=cpu", "devices=2", "n=100000")
    with processes.started("evaluate.py", *arguments, folder=folder) as process:
        other = processes.until(lambda: processes.with_words(process.pid, MARK), process)
        os.kill(other[0], signal.SIGKILL)
        assert process.wait(processes.LIMIT) == 1
        assert not processes.left_after(process.pid, processes.ORPHANS)
    assert "error: rank 1 was ended by SIGKILL" in processes.texts(folder)[1]


@pytest.mark.slow
def test_a_rank_that_measures_for_longer_than_a_silent_one_may_is_waited_for(tmp_path):
    """F30: a process that is stopped gives no sign of life, one that only takes long does."""
    usual = ("callbacks=[sample_metrics]", "trainer.max_steps=2")
    slow = "+callbacks.fault={_target_: injection.Fault, does: sleep, when: evaluation, rank: 0, times: 5}"
    run = processes.train(tmp_path / "two", *usual, "trainer.devices=2", "rank_timeout=2", slow)
    assert run.status == 0 and not run.orphans and run.seconds_after_fault > 5, run.stderr
    alone = runs.train(tmp_path / "one", *usual)
    assert run.logged("fd_fashion_20") == pytest.approx(alone.logged("fd_fashion_20"), rel=1e-3)
