"""F36: where memory runs out, measuring goes on in smaller parts with the same values, and training says what to do."""

import gc
import weakref

import processes
import pytest
import torch

import runs
from oboro.base.errors import UserError, is_out_of_memory
from oboro.base.memory import Parts
from oboro.denoiser import Denoiser

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
]
MEASURED = ("trainer.max_steps=2", "callbacks=[sample_metrics,sample_grid,checkpoints]", "metrics=[frechet]")


class Room:
    """The squares of ``items``, where at most ``most`` have room; each call is in ``calls``."""

    def __init__(self, most: int, error: Exception):
        self.most, self.error, self.calls = most, error, []

    def __call__(self, items):
        self.calls.append(len(items))
        if len(items) > self.most:
            raise self.error
        return torch.tensor(items).square()


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_parts_give_the_rows_of_the_whole_in_their_order(error):
    room, parts = Room(3, error), Parts()
    assert is_out_of_memory(error)
    assert torch.equal(parts.rows(room, range(13)), torch.arange(13).square())
    assert room.calls == [13, 7, 4, 2, 2, 2, 2, 2, 2, 1]
    assert torch.equal(parts.rows(room, range(5)), torch.arange(5).square())  # no attempt that must fail
    assert room.calls[-3:] == [2, 2, 1]


def test_what_is_no_lack_of_memory_passes_and_one_sample_too_many_is_a_line():
    with pytest.raises(RuntimeError, match="sizes of tensors"):
        Parts()(Room(0, RuntimeError("The sizes of tensors must match")), [1, 2])
    with pytest.raises(UserError, match=r"memory does not do for one sample: CUDA out of memory.*; use a device"):
        Parts()(Room(0, ERRORS[0]), [1, 2])


def test_the_next_attempt_finds_the_memory_of_the_failed_one_free():
    held = []

    def f(items):
        if len(items) > 1:
            large = torch.zeros(10)
            held.append(weakref.ref(large))
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert all(ref() is None for ref in held)
        return torch.tensor(items)

    gc.disable()
    try:
        assert torch.equal(Parts().rows(f, [1, 2]), torch.tensor([1, 2]))
    finally:
        gc.enable()


@pytest.mark.slow
def test_a_run_measures_and_validates_the_same_with_little_memory(tmp_path):
    whole = runs.train(tmp_path / "whole", *MEASURED)
    little = runs.train(tmp_path / "little", *MEASURED, "+callbacks.m={_target_: injection.LittleMemory, most: 3}")
    for name in ("fd_fashion_20", "val/loss", "train/loss"):
        assert little.logged(name) == pytest.approx(whole.logged(name), rel=1e-5)
    (a,), (b,) = ([row["protocol"] for row in run.rows if "protocol" in row] for run in (whole, little))
    assert a == b  # also the evaluations of the network, of which failed attempts are none
    assert "memory ran out with 8 at once, so 2 at a time" in little.stderr


@pytest.mark.slow
def test_sampling_draws_the_same_with_little_memory(tmp_path, monkeypatch):
    run = runs.train(tmp_path / "run", runs.NO_EVALUATION)
    whole = runs.sample(tmp_path / "whole", run.last, "n=5", "chunk=4")
    forward = Denoiser.forward

    def limited(self, x_t, *arguments, **keywords):
        if len(x_t) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x_t, *arguments, **keywords)

    monkeypatch.setattr(Denoiser, "forward", limited)
    little = runs.sample(tmp_path / "little", run.last, "n=5", "chunk=4")
    assert little.images == whole.images


@pytest.mark.parametrize(
    ("accumulate", "remedy"),
    [(1, "trainer.accumulate_grad_batches=2, which keeps the batch"), (8, "choose a smaller model")],
)
def test_training_without_room_is_one_line_with_numbers_and_a_remedy(accumulate, remedy, tmp_path):
    fault = "+callbacks.fault={_target_: injection.Fault, does: out_of_memory, step: 1}"
    typed = runs.toy(runs.NO_EVALUATION, fault, f"trainer.accumulate_grad_batches={accumulate}")
    run = runs.call("train.py", *runs.outputs(tmp_path, *typed), cwd=tmp_path)
    line = run.stderr.splitlines()[-1]
    assert run.status == 1 and "Traceback" not in run.stderr
    assert line.startswith("error: memory ran out in step 2 (CUDA out of memory")
    assert f"data.batch_size=8 is {8 // accumulate} samples at once" in line and remedy in line and " GB on cpu" in line


@pytest.mark.slow
def test_memory_that_runs_out_on_one_rank_is_said_by_it(tmp_path):
    fault = "+callbacks.fault={_target_: injection.Fault, does: out_of_memory, step: 2, rank: 1}"
    run = processes.train(tmp_path, runs.NO_EVALUATION, "trainer.devices=2", "trainer.max_steps=9", fault)
    assert run.status != 0 and not run.orphans and run.soon(15)
    assert "error: rank 1: memory ran out in step 3" in run.stderr and "is 4 samples at once" in run.stderr
    assert "set trainer.accumulate_grad_batches=2, which keeps the batch" in run.stderr
    assert "Traceback" not in run.stderr
