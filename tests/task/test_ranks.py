"""Validation on two and three real processes, with fewer held-out samples than processes and with more."""

import pytest
import torch

import runs
from ranks import on_ranks

TWO_BATCHES = ("data.batch_size=12", "trainer.val_check_interval=1")
CASES = {  # name: the run, how many samples it holds out; batches are of 12 at most
    "one picture": (("data.validation=1",), 1),
    "none": (("data.validation=0",), 0),
    "three chunks and a rest": (("data.validation=40",), 40),
    "classes": ((runs.CLASSIFICATION, "data.validation=13"), 13),
    "pairs": ((runs.CLIP, "data.validation=13"), 13),
    "a codec": ((runs.AUTOENCODER, "data.validation=1"), 1),
}


def validated(overrides: tuple[str, ...], world: int) -> dict[str, float]:
    """The numbers of validation after two steps that leave the weights, so that they do not depend on the ranks."""
    settings = {} if world == 1 else {"devices": world, "strategy": "ddp"}
    chosen = (*TWO_BATCHES, *overrides, "optimizer.lr=1e-30")
    trainer, task, data = runs.built(*chosen, accelerator="cpu", max_steps=2, **settings)
    data.setup()
    task.check(data)  # reads the weights of a perceptual loss
    trainer.fit(task, data)
    assert trainer.global_step == 2
    return {name: v.item() for name, v in trainer.callback_metrics.items() if name.startswith("val/")}


def validate_all(rank: int, world: int, folder) -> None:
    torch.save({name: validated(overrides, world) for name, (overrides, _) in CASES.items()}, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, float]]:
    return {name: validated(overrides, 1) for name, (overrides, _) in CASES.items()}


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_numbers_of_validation_are_equal_on_any_number_of_ranks(world, alone, tmp_path):
    """To the last bit, and each rank has them: one that is left without samples takes part, and its padding counts
    nowhere."""
    on_ranks(world, validate_all, world, tmp_path)
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, (_, held_out) in CASES.items():
            assert found[name] == alone[name], (rank, name)
            assert bool(found[name]) == bool(held_out)
