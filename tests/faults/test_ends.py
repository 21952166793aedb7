"""However a run ends, nothing is lost, and what goes on from there is the run that was never interrupted."""

import json
import os
import shlex
import signal

import processes
import pytest
import torch

import runs
from oboro.cli.running import read_record
from oboro.sweep import Job
from oboro.sweep.job import verdict
from oboro.task import Diffusion

SIX = (
    "trainer.max_steps=6",
    "callbacks=[sample_metrics,sample_grid,checkpoints]",
    "callbacks.sample_metrics.every_n_steps=2",
    "callbacks.sample_grid.every_n_steps=3",
    "callbacks.checkpoints.every_n_steps=0",
    "trainer.val_check_interval=2",
)
LEARNED = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step")
STATUS = {"sigterm": 143, "sigint": 130, "sighup": 129, "sigusr1": 138}


def fault(does: str, when: str = "step", **settings) -> str:
    values = "".join(f", {name}: {value}" for name, value in settings.items())
    return f"+callbacks.fault={{_target_: injection.Fault, does: {does}, when: {when}{values}}}"


def call(folder, *overrides):
    folder.mkdir(parents=True, exist_ok=True)
    run = runs.call("train.py", *runs.outputs(folder, *runs.toy(*overrides)), cwd=folder)
    return runs.Run(run.status, run.stdout, run.stderr, folder)


def resumed(interrupted: runs.Run, *overrides: str) -> runs.Run:
    """By the command that the interrupted run gives, in its own folder."""
    command = next(line for line in interrupted.stderr.splitlines() if "goes on" in line).split("`")[1]
    *_, resume = shlex.split(command)
    return call(interrupted.folder, *SIX, *overrides, resume)


def rows(run: runs.Run) -> list[dict]:
    """What was logged, without the clock: by step, whatever came first in it."""
    plain = [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in run.rows]
    return sorted(plain, key=lambda row: (row["step"], list(row)))


def learned(run: runs.Run, name: str = "last") -> dict:
    return {key: value for key, value in run.checkpoint(name).items() if key in LEARNED}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return runs.train(tmp_path_factory.mktemp("straight"), *SIX)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "when", "step", "saved"),
    [
        ("sigterm", "step", 3, 3),
        pytest.param("sigint", "batch", 3, 3, marks=pytest.mark.slow),
        pytest.param("sighup", "validation", 3, 4, marks=pytest.mark.slow),
        ("sigterm", "evaluation", 3, 4),
        pytest.param("sigusr1", "grid", 2, 3, marks=pytest.mark.slow),
        pytest.param("sigterm", "evaluation", 6, 6, marks=pytest.mark.slow),
        pytest.param("sigterm", "validation", 6, 6, marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_a_checkpoint_from_which_the_run_goes_on(straight, tmp_path, does, when, step, saved):
    interrupted = call(tmp_path / "run", *SIX, fault(does, when, step=step))
    assert interrupted.status == STATUS[does], interrupted.stderr
    assert interrupted.checkpoint()["global_step"] == saved
    run = resumed(interrupted)
    assert run.status == 0, run.stderr
    assert runs.equal(learned(run), learned(straight))
    assert runs.equal(learned(run, "best"), learned(straight, "best"))
    assert rows(run) == rows(straight)
    read = [json.loads((r.folder / "result.json").read_text()) for r in (run, straight)]
    assert read[0] == read[1]
    assert len(list((run.folder / "samples").iterdir())) == 2
    again = call(run.folder, *SIX, f"resume={run.folder}")
    assert again.status == 1 and "already at step 6" in again.stderr


@pytest.mark.slow
def test_a_run_that_is_ended_before_a_step_twice_repeats_nothing(straight, tmp_path):
    cut = fault("sigterm", "batch", step=4)
    run = resumed(call(tmp_path, *SIX, cut), cut)
    assert run.status == 143 and run.checkpoint()["global_step"] == 4, run.stderr
    assert rows(resumed(run)) == rows(straight)


@pytest.mark.slow
def test_a_measuring_that_was_cut_is_done_once_though_no_later_checkpoint_holds_it(straight, tmp_path):
    run = resumed(call(tmp_path, *SIX, fault("sigterm", "evaluation", step=3)), fault("raise", step=5))
    assert run.status == 1 and run.checkpoint()["global_step"] == 4, run.stderr
    run = call(tmp_path, *SIX, f"resume={tmp_path}")
    assert run.status == 0, run.stderr
    assert [row for row in rows(run) if "metrics" in row] == [row for row in rows(straight) if "metrics" in row]
    assert all(runs.equal(learned(run, name), learned(straight, name)) for name in ("last", "best"))


@pytest.mark.slow
def test_a_last_measuring_that_is_cut_twice_is_done(tmp_path):
    once = (*SIX, "callbacks.sample_metrics.every_n_steps=0")
    again = fault("sigterm", "evaluation", step=6)
    for resume in ((), (f"resume={tmp_path}",)):
        run = call(tmp_path, *once, again, *resume)
        assert run.status == 143 and "step 6 of 6" in run.stderr, run.stderr
    run = call(tmp_path, *once, f"resume={tmp_path}")
    assert run.status == 0, run.stderr
    assert list(run.logged("fd_fashion_20")) == [6] and run.checkpoint("best")["global_step"] == 6


@pytest.mark.slow
def test_a_codec_that_is_measured_when_the_run_goes_on_has_the_statistics_of_its_weights(tmp_path):
    """A signal in the statistics, after which the checkpoint is written and the codec is measured."""
    usual = (
        runs.AUTOENCODER,
        "callbacks=[latent_statistics,reconstruction_metrics,checkpoints]",
        "callbacks.reconstruction_metrics.every_n_steps=2",
        "callbacks.latent_statistics.every_n_steps=2",
        "callbacks.checkpoints.every_n_steps=2",
        "trainer.max_steps=3",
    )
    error = fault("raise", "batch", step=2)
    whole = call(tmp_path / "whole", *usual, error)
    cut = call(tmp_path / "cut", *usual, fault("sigterm", "statistics", step=2))
    assert cut.status == 143 and cut.checkpoint()["global_step"] == 2, cut.stderr
    run = call(cut.folder, *usual, error, f"resume={cut.folder}")
    assert run.checkpoint("best")["global_step"] == 2, run.stderr
    assert all(runs.equal(learned(run, name), learned(whole, name)) for name in ("last", "best"))


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_ends_early_is_measured_and_saved_at_its_last_step(tmp_path, accumulate):
    """Once, by whatever it ends: here a callback that sets ``trainer.should_stop`` in the middle of a step."""
    more = (f"trainer.accumulate_grad_batches={accumulate}", "callbacks=[sample_metrics,sample_grid,checkpoints]")
    usual = ("trainer.max_steps=50", "trainer.val_check_interval=40", *more)
    run = call(tmp_path, *usual, "trainer.min_steps=3", fault("stop", "batch", step=1))
    assert run.status == 0, run.stderr
    assert run.checkpoint()["global_step"] == 3
    assert [row["step"] for row in run.rows if "val/loss" in row] == [3]
    assert [row["step"] for row in run.rows if "fd_fashion_20" in row] == [3]
    assert json.loads((tmp_path / "result.json").read_text())["objective"] == "fd_fashion_20"
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step-00000003.png"]
    later = call(tmp_path, *usual, "trainer.max_steps=5", f"resume={tmp_path}")
    whole = call(tmp_path / "whole", *usual, "trainer.max_steps=5")
    assert runs.equal(learned(later), learned(whole))


@pytest.mark.slow
def test_the_time_of_training_is_limited_over_all_that_a_run_goes_on_from(tmp_path):
    """The first step takes the time that it may take."""
    usual = ("trainer.max_steps=50", "callbacks=[checkpoints]", 'trainer.max_time="00:00:00:01"')
    run = call(tmp_path, *usual, fault("sleep", step=2))
    assert run.status == 0 and "trainer.max_time is over at step 2 of 50" in run.stderr
    assert run.checkpoint()["global_step"] == 2
    again = call(tmp_path, *usual, f"resume={tmp_path}")
    assert again.status == 1 and "set a longer one" in again.stderr and "Traceback" not in again.stderr
    longer = call(tmp_path, *usual, f"resume={tmp_path}", "trainer.max_time={hours: 1}", "trainer.max_steps=3")
    assert longer.status == 0 and longer.checkpoint()["global_step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("+trainer.max_epochs=3", "has no epochs; count in steps, trainer.max_steps=<3 x training samples"),
        ("+trainer.min_epochs=3", "trainer.min_steps=<3 x"),
        ("trainer.min_steps=9", "trainer.min_steps=9 is more than trainer.max_steps=2"),
        ("trainer.max_time=12:00", "trainer.max_time=12:00 must be"),
        ("trainer.max_time=00:00:00:00", "trainer.max_time=00:00:00:00 must be"),
        ("trainer.max_time={hour: 1}", "trainer.max_time"),
    ],
)
def test_ends_that_never_come_are_refused(tmp_path, setting, message):
    run = call(tmp_path, setting, runs.NO_EVALUATION)
    assert run.status == 1 and message in run.stderr and "Traceback" not in run.stderr


TWO = ("trainer.devices=2", "data.num_workers=1")


@pytest.fixture(scope="module")
def straight_on_two(tmp_path_factory):
    run = processes.train(tmp_path_factory.mktemp("two"), *SIX, *TWO)
    assert run.status == 0, run.stderr
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "when", "rank", "step"),
    [
        ("sigterm", "step", None, 3),
        ("sigint", "evaluation", 0, 3),
        ("sigterm", "saving", 1, 3),
    ],
)
def test_ranks_end_together_whichever_is_signalled(straight_on_two, tmp_path, does, when, rank, step):
    """Stock Lightning waits until its time-out where rank 1 alone gets a SIGTERM, and leaves with status 0 else."""
    often = "callbacks.checkpoints.every_n_steps=2"
    here = fault(does, when, step=step, rank="null" if rank is None else rank, times=2 if does == "sigterm" else 1)
    run = processes.train(tmp_path, *SIX, *TWO, often, here)
    assert run.status == STATUS[does], run.stderr
    assert not run.orphans and run.soon(10)
    assert "Traceback" not in run.stderr and run.stderr.count("goes on") == 1
    step = run.checkpoint()["global_step"]
    assert 3 <= step <= 5
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "evaluated.json", "last.ckpt"}
    again = processes.train(tmp_path, *SIX, *TWO, f"resume={tmp_path}")
    assert again.status == 0, again.stderr
    assert runs.equal(learned(again), learned(straight_on_two))
    assert rows(again) == rows(straight_on_two)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_run_where_it_is(tmp_path):
    run = processes.train(tmp_path, *SIX, *TWO, fault("sigint", step=3, times=2))
    assert run.status == 130 and not run.orphans and not (tmp_path / "checkpoints/last.ckpt").exists()
    assert run.soon(5)


@pytest.mark.slow
def test_slurm_is_asked_once_to_start_the_job_again(tmp_path):
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "1234", "SLURM_JOB_NAME": "bash", "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    run = processes.train(tmp_path, *SIX, *TWO, fault("sigusr1", step=3, rank="null"), env=slurm)
    assert run.status == 143, run.stderr
    assert (tmp_path / "asked").read_text() == "requeue 1234\n"
    assert "SLURM starts job 1234 again" in run.stderr and 3 <= run.checkpoint()["global_step"] <= 5


def early(monitor: str, **settings) -> str:
    values = "".join(f", {name}: {value}" for name, value in settings.items())
    kind = "_target_: lightning.pytorch.callbacks.EarlyStopping"
    return f"+callbacks.early={{{kind}, monitor: {monitor}{values}}}"


@pytest.mark.slow
def test_early_stopping_ends_a_run_as_its_last_step_does(tmp_path):
    """A threshold that every value is below, of a number that validation gives; then of a metric."""
    usual = (
        "trainer.max_steps=50",
        "callbacks=[sample_metrics,checkpoints]",
        "callbacks.sample_metrics.every_n_steps=2",
    )
    for monitor in ("val/loss", "fd_fashion_20"):
        folder = tmp_path / monitor.replace("/", "_")
        run = call(folder, *usual, "trainer.val_check_interval=2", early(monitor, stopping_threshold=1e6))
        assert run.status == 0, run.stderr
        assert run.checkpoint()["global_step"] == 2 and (folder / "result.json").exists()
        assert [row["step"] for row in run.rows if "fd_fashion_20" in row] == [2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((early("val_loss"),), "Did you mean val/loss?"),
        ((early("val/loss", check_on_train_epoch_end="true"),), "waits for the end of an epoch"),
        ((early("val/loss"), "data.validation=0"), "there is none"),
        ((early("val/loss"), "trainer.val_check_interval=1000"), "the first is at step 1000 of 2"),
        ((early("fd_fashion_20"), "callbacks.sample_metrics.every_n_steps=0"), "measured at the end only"),
    ],
)
def test_an_early_stopping_that_would_never_stop_is_refused(tmp_path, settings, message):
    usual = ("callbacks=[sample_metrics]", "trainer.val_check_interval=1", *settings)
    run = call(tmp_path, *usual)
    assert run.status == 1 and message in run.stderr and "Traceback" not in run.stderr
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(("script", "does"), [("sample.py", "sigint"), ("evaluate.py", "sigterm")])
def test_other_commands_end_with_one_line(straight, tmp_path, monkeypatch, script, does):
    """In the second of five chunks."""
    generate, chunks = Diffusion.generate, []

    def signalled(*args):
        chunks.append(args)
        if len(chunks) == 2:
            os.kill(os.getpid(), getattr(signal, does.upper()))
        return generate(*args)

    monkeypatch.setattr(Diffusion, "generate", signalled)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    small = ("accelerator=cpu", "n=10", "chunk=2")
    run = runs.call(script, *runs.outputs(tmp_path / "out", f"checkpoint={straight.last}", *small), cwd=tmp_path)
    assert run.status == STATUS[does] and len(chunks) == 2
    assert "Traceback" not in run.stderr and "written to" not in run.stdout
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert not (tmp_path / "out" / "evaluation.json").exists()


@pytest.mark.slow
def test_a_sweep_that_is_ended_has_its_jobs_save_and_runs_them_again(tmp_path):
    job = [*runs.toy("trainer.max_steps=2000", "callbacks=[checkpoints]", "seed=1,2"), fault("sigterm_parent", step=3)]
    run = processes.run("train.py", "-m", f"hydra.sweep.dir={tmp_path}/sweep", *job, folder=tmp_path)
    assert run.status == 143 and not run.orphans, run.stderr
    jobs = json.loads((tmp_path / "sweep" / "jobs.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["stopped", "waiting"]
    assert torch.load(tmp_path / "sweep/0/checkpoints/last.ckpt", weights_only=True)["global_step"] < 2000
    assert "goes on" in (tmp_path / "sweep/0/output.log").read_text()
    assert "0 of 2 jobs done; run the rest with" in run.stderr


@pytest.mark.slow
def test_a_signal_after_the_last_step_of_a_job_ends_those_after_it(tmp_path):
    """Of a sweep within one process. The job itself is finished."""
    job = [*runs.toy("callbacks=[checkpoints]", "seed=1,2"), fault("sigterm", step=2)]
    typed = ("-m", "hydra/launcher=basic", f"hydra.sweep.dir={tmp_path}/sweep", *job)
    run = runs.call("train.py", *typed, cwd=tmp_path)
    assert run.status == 143, run.stderr
    assert torch.load(tmp_path / "sweep/0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert read_record(tmp_path / "sweep" / "0").finished and not (tmp_path / "sweep" / "1").exists()


def test_a_job_that_a_signal_ended_is_not_done(tmp_path):
    """Whether it ended in order or was killed by it."""
    codes = {143: "ended by SIGTERM", 130: "ended by SIGINT", 129: "ended by SIGHUP", -15: "killed by SIGTERM"}
    (tmp_path / "output.log").write_text("SIGTERM: ended at step 3\n")
    for code, status in codes.items():
        job = Job(0, [], [], "0")
        job.end(*verdict(code, tmp_path / "output.log"), 1.0, tmp_path)
        assert job.status == status and not job.done
