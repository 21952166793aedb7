"""Ranks that die or fail: the others end too, soon, and the first error is the one that is seen."""

import processes
import pytest
import torch

TWO = ("trainer.devices=2", "trainer.max_steps=6", "callbacks=[checkpoints]", "callbacks.checkpoints.every_n_steps=2")


def fault(does: str, **settings) -> str:
    values = "".join(f", {name}: {value}" for name, value in settings.items())
    return f"+callbacks.fault={{_target_: injection.Fault, does: {does}{values}}}"


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all_and_is_seen(tmp_path):
    run = processes.train(tmp_path, *TWO, fault("raise", step=3, rank=1))
    assert run.status != 0 and not run.orphans
    assert "rank 1 met the injected error" in run.stderr
    assert run.seconds_after_fault < 10
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
