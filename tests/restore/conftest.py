"""What files of runs hold, for tests that change it."""

import pytest

import runs


@pytest.fixture(scope="module")
def content():
    """What a toy run would write at its start."""
    _, task, data = runs.built()
    config = runs.composed()
    kept = ("task", "data", "extractor", "metrics", "sampler", "guidance", "trainer", "seed")
    return {
        "config": {key: config[key] for key in kept},
        "state_dict": task.state_dict(),
        "ema": task.ema.state_dict(task.denoiser),
        "modality": data.modality.spec(),
        "global_step": 0,
    }
