"""Runs that meet in one folder, and runs that go on in theirs after a kill."""

import os
import signal

import processes
import pytest
from torch.distributed import run

import runs
from oboro.cli.running import is_running

SHORT = (runs.NO_EVALUATION, "callbacks.checkpoints.every_n_steps=2", "trainer.max_steps=4", "data.num_workers=1")
STOP = "+callbacks.fault={_target_: injection.Fault, does: sigstop, step: 3}"


def train(folder, *typed: str) -> runs.Run:
    return runs.call("train.py", *runs.outputs(folder, *runs.toy(*SHORT, *typed)), cwd=folder)


@pytest.mark.slow
def test_a_second_run_is_refused_and_a_killed_one_goes_on(tmp_path):
    """The lock goes with the first process, though a worker of it lives on; the same command then goes on."""
    typed = runs.outputs(tmp_path, *runs.toy(*SHORT, STOP, "resume=auto"))
    with processes.started("train.py", *typed, folder=tmp_path) as process:
        processes.until((tmp_path / "fault.time").exists, process)
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        for words in ((), ("resume=auto",), ("overwrite=true",)):
            second = train(tmp_path, *words)
            assert second.status == 1 and f"going on in {tmp_path}" in second.stderr
            assert f"(process {process.pid} on " in second.stderr and len(second.stderr.splitlines()) == 1
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        workers = [member for member in processes.members(process.pid) if member != process.pid]
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert workers and is_running(tmp_path) is False
    again = runs.succeeded(train(tmp_path, "resume=auto"))
    assert "last.ckpt, step 2" in again.stderr
    straight = runs.train(tmp_path / "straight", *SHORT)
    assert runs.equal(runs.Run(0, "", "", tmp_path).checkpoint()["state_dict"], straight.checkpoint()["state_dict"])


@pytest.mark.slow
def test_the_jobs_of_a_sweep_go_on_each_in_its_folder(tmp_path):
    """The same command again: what is done stays with its numbers, what was cut off goes on, and no job gets another's
    folder."""
    typed = [*runs.toy(*SHORT[:-1], "callbacks=[sample_metrics,checkpoints]", "resume=auto"), "hydra.sweep.dir=s"]
    cut = "+callbacks.cut={_target_: recorder.PowerCut, step: 3}"
    env = {"OMP_NUM_THREADS": "1"}
    first = processes.run("train.py", "-m", *typed, "seed=0", folder=tmp_path, env=env)
    assert (first.status == 0 and "metrics" in first.stdout) or "fd_" in first.stdout
    both = processes.run("train.py", "-m", *typed, "seed=0,1", cut, folder=tmp_path, env=env)
    assert both.status == 1 and "job 1 first" in both.stderr, both.stderr
    assert "finished; nothing is left to do" in (tmp_path / "s" / "0" / "output.log").read_text()
    assert (tmp_path / "s" / "0" / "output.1.log").exists() and (tmp_path / "s" / "0" / "result.json").exists()
    mixed = processes.run("train.py", "-m", *typed, "seed=1,0", folder=tmp_path, env=env)
    assert mixed.status == 1 and "job 0 had" in mixed.stderr and "Traceback" not in mixed.stderr
    done = processes.run("train.py", "-m", *typed, "seed=0,1", folder=tmp_path, env=env)
    assert done.status == 0 and "step 2" in (tmp_path / "s" / "1" / "output.log").read_text()


@pytest.mark.slow
def test_two_ranks_of_torchrun_go_on_in_one_folder(tmp_path):
    """Each runs Hydra and chooses; one record, one log, and both go on from one step."""
    launcher = [
        *("--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"),
        str(runs.ROOT / "train.py"),
    ]
    settings = [*runs.toy(*SHORT, "data.num_workers=0", "trainer.devices=2", "resume=auto"), "hydra.run.dir=run"]
    first = processes.run(run.__file__, *launcher, *settings, folder=tmp_path)
    assert first.status == 0 and "run has no checkpoint; the run begins at step 0" in first.stderr, first.stderr
    assert sorted(path.name for path in (tmp_path / "run").glob("*.log")) == ["train.log"]
    more = processes.run(run.__file__, *launcher, *settings, "trainer.max_steps=6", folder=tmp_path)
    assert more.status == 0 and "last.ckpt, step 4" in more.stderr, more.stderr
    done = runs.Run(0, "", "", tmp_path / "run")
    assert done.checkpoint()["global_step"] == 6 and list(done.logged("train/loss")) == [1, 2, 3, 4, 5, 6]
    refused = processes.run(run.__file__, *launcher, *settings[:-2], "hydra.run.dir=run", folder=tmp_path)
    assert refused.status != 0 and "add resume=auto to go on" in refused.stderr
