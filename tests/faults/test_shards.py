"""Faults of runs whose weights lie in shards on two processes, and whose checkpoints do, written in the background."""

from pathlib import Path

import processes
import pytest

import runs
from oboro.restore.checkpoint import forget_checkpoint, load_checkpoint
from test_strategy import tensors


def shell(folder, strategy, *overrides):
    """A run of four steps on two processes, every step of it saved, with a fault on the second."""
    usual = (runs.NO_EVALUATION, "trainer.max_steps=4", "callbacks.checkpoints.every_n_steps=1", "trainer.devices=2")
    apart = ("callbacks.checkpoints.sharded=true", "callbacks.checkpoints.asynchronous=true")
    more = apart if strategy == "fsdp2" else ()
    return processes.train(folder, *usual, f"trainer.strategy={strategy}", *more, *overrides)


def fault(does, when, step):
    return f"+callbacks.fault={{_target_: injection.Fault, does: {does}, when: {when}, step: {step}, rank: 1}}"


def check_whole(a: Path, b: Path) -> None:
    """That two checkpoints of runs hold the same to rounding, each read as a user's."""
    kept = []
    for path in (a, b):
        forget_checkpoint()
        kept.append(tensors({key: load_checkpoint(path)[key] for key in ("state_dict", "ema", "optimizer_states")}))
    assert kept[0].keys() == kept[1].keys()
    assert max((kept[0][place].double() - kept[1][place].double()).abs().max().item() for place in kept[0]) < 1e-5


@pytest.mark.slow
def test_a_rollback_is_that_of_ddp(tmp_path):
    """To what was being written in the background when the step failed."""
    settings = ("divergence=rollback", fault("nan_batch", "step", 2))
    a, b = (runs.succeeded(shell(tmp_path / strategy, strategy, *settings)) for strategy in ("ddp", "fsdp2"))
    assert "step 3" in a.stderr and [r.stderr.count("goes back") for r in (a, b)] == [1, 1]
    check_whole(a.last, b.last)


@pytest.mark.slow
def test_a_signal_to_one_rank_ends_all_and_the_run_goes_on(tmp_path):
    cut = shell(tmp_path / "cut", "fsdp2", fault("sigterm", "step", 2))
    assert cut.status == 143 and not cut.orphans and "goes on" in cut.stderr
    forget_checkpoint()
    step = load_checkpoint(cut.last)["global_step"]
    assert 2 <= step <= 3
    straight = runs.succeeded(shell(tmp_path / "straight", "ddp"))
    again = runs.succeeded(shell(tmp_path / "cut", "fsdp2", f"resume={cut.last}"))
    check_whole(straight.last, again.last)


@pytest.mark.slow
def test_a_killed_rank_leaves_a_whole_checkpoint(tmp_path):
    run = shell(tmp_path, "fsdp2", fault("sigkill", "saving", 3))
    assert run.status == 1 and not run.orphans
    forget_checkpoint()
    assert load_checkpoint(run.last)["global_step"] == 2
