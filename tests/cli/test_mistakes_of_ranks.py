"""A mistake is shown once, by whichever rank meets it."""

import os
import tempfile

import pytest
import torch
import torch.distributed as dist

import runs
from oboro.base.distributed import RankFailed, is_collective_error
from oboro.cli import mistakes_of_ranks

TORCHRUN = ({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "3"}, "RANK", "LOCAL_RANK")
SRUN = ({"SLURM_STEP_NUM_TASKS": "3"}, "SLURM_PROCID", "SLURM_LOCALID")


@pytest.fixture(params=[TORCHRUN, SRUN], ids=["torchrun", "srun"])
def shown(request, tmp_path, monkeypatch):
    """``shown(rank)``: what that rank of three shows of a wrong command."""
    common, *names = request.param
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(mistakes_of_ranks, "WAIT", 0.0)

    def shown(rank: int, *typed: str) -> str:
        for name, value in {**common, **dict.fromkeys(names, str(rank))}.items():
            monkeypatch.setenv(name, value)
        run = runs.call("train.py", *(typed or ("trainr.max_steps=3",)), cwd=tmp_path)
        assert run.status == 1
        return run.stderr

    return shown


@pytest.mark.slow
def test_what_all_ranks_meet_the_first_one_shows(shown):
    assert shown(0).startswith("error: there is no group") or "trainr" in shown(0)
    assert shown(1) == shown(2) == ""


@pytest.mark.slow
def test_what_other_ranks_meet_alone_one_of_them_shows(shown):
    assert shown(2).startswith("error: rank 2: ") and shown(1) == ""
    assert shown(1, "nonsense=3").startswith("error: rank 1: ")  # another mistake
    assert shown(0).startswith("error: ") and "rank" not in shown(0)  # it does not wait for others


@pytest.mark.slow
def test_runs_do_not_take_each_others_mistakes_for_their_own(shown, monkeypatch):
    assert shown(1) != ""
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert shown(1) != ""


@pytest.mark.slow
def test_the_last_rank_that_meets_a_mistake_removes_what_they_know_each_other_by(shown, tmp_path, monkeypatch):
    """What one alone has met goes with the next mistake, once the program that started it is gone."""
    left = lambda: [path.name for path in tmp_path.glob("oboro-mistake-*")]  # noqa: E731
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert shown(0) != "" and shown(2) == "" and len(left()) == 1
    assert shown(1) == "" and left() == []
    assert shown(2, "nonsense=3") != "" and len(left()) == 1
    (tmp_path / left()[0]).rename(tmp_path / f"oboro-mistake-{os.getppid()}-0-gone")
    assert shown(0) != "" and left() != [f"oboro-mistake-{os.getppid()}-0-gone"] and len(left()) == 1


def test_errors_of_a_collective_are_known_by_type_place_or_backend(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError) as of_call:
            dist.all_gather([torch.zeros(2)], torch.zeros(3))
    finally:
        dist.destroy_process_group()
    plain = RuntimeError("Tensor list is wrong")
    assert is_collective_error(of_call.value.__class__(str(of_call.value)).with_traceback(of_call.tb))
    for error in (RankFailed("x"), dist.DistBackendError("x"), RuntimeError("[..] nccl communicator was aborted")):
        assert is_collective_error(error)
    for error in (plain, ValueError("gloo"), RuntimeError("CUDA error: unspecified launch failure")):
        assert not is_collective_error(error)
