"""A run goes on upon as many processes to the last bit, and upon more or fewer of them to within rounding."""

from pathlib import Path

import processes
import pytest
import torch

import runs

TWO = ("trainer.devices=2", "trainer.strategy=ddp")
ONE = ("trainer.devices=1", "trainer.strategy=auto")
# 24 samples to train on: step 3 ends an epoch. All that a step of diffusion draws.
SETTINGS = (
    *("callbacks=[checkpoints]", "data.validation=9976", "+trainer.limit_val_batches=0"),
    *("model.dropout=0.5", "conditioner.dropout=0.4", "loss.stratified=true", "loss.offset_noise=0.1"),
    *("loss/weighting=learned_log_variance", "loss/time=loss_aware", "loss.time.bins=2", "loss.time.history=3"),
)
LEARNED = ("state_dict", "ema", "optimizer_states")


def trained(folder: Path, *overrides: str) -> runs.Run:
    """On one process inside of this one, on two as two real ones."""
    record = f"+callbacks.recorder={{_target_: recorder.Recorder, folder: {folder}}}"
    if TWO[0] in overrides:
        return runs.succeeded(processes.train(folder, *SETTINGS, record, *overrides))
    return runs.train(folder, *SETTINGS, record, *overrides)


def seen(run: runs.Run) -> list[list[int]]:
    """The samples of each step."""
    ranks = [torch.load(path, weights_only=True)["index"] for path in sorted(run.folder.glob("rank*.pt"))]
    return [torch.cat(step).tolist() for step in zip(*ranks, strict=True)]


def distance(a: runs.Run, b: runs.Run, before: runs.Run) -> tuple[float, float]:
    """|a - b| over |a|, and over what training has changed since ``before``, of all weights together."""
    a, b, c = (
        torch.cat([v.double().flatten() for v in run.checkpoint()["state_dict"].values() if v.is_floating_point()])
        for run in (a, b, before)
    )
    return float((a - b).norm() / a.norm()), float((a - b).norm() / (a - c).norm())


@pytest.mark.slow
def test_a_run_goes_on_upon_another_number_of_processes(tmp_path):
    half = {n: trained(tmp_path / f"half{n}", *ranks, "trainer.max_steps=3") for n, ranks in ((1, ONE), (2, TWO))}
    whole = {n: trained(tmp_path / f"whole{n}", *ranks, "trainer.max_steps=6") for n, ranks in ((1, ONE), (2, TWO))}

    def resumed(before: int, ranks: tuple[str, ...], name: str) -> runs.Run:
        return trained(tmp_path / name, *ranks, "trainer.max_steps=6", f"resume={half[before].last}")

    same = resumed(2, TWO, "2 to 2")
    a, b = same.checkpoint(), whole[2].checkpoint()
    assert runs.equal({k: a[k] for k in LEARNED}, {k: b[k] for k in LEARNED})
    assert seen(whole[1]) == seen(whole[2]) == seen(half[2]) + seen(same)
    for other in (resumed(2, ONE, "2 to 1"), resumed(1, TWO, "1 to 2"), whole[2]):
        assert seen(other)[-3:] == seen(whole[1])[-3:]
        of_weights, of_change = distance(whole[1], other, half[1])
        assert of_weights < 1e-6 and of_change < 1e-3, other.folder.name
