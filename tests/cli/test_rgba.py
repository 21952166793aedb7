"""Pictures of four channels on every path that looks at them: drawn and measured, or one line before any training."""

import numpy as np
import pytest
from PIL import Image

import runs

UNSEEN = "sees grey and RGB images and these are images of 4×28×28; choose extractor=raw, or metrics=[]."


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("rgba")
    rng = np.random.RandomState(0)
    for i in range(40):
        Image.fromarray(rng.randint(0, 255, (28, 28, 4), dtype=np.uint8), "RGBA").save(folder / f"{i}.png")
    size = ("data.resolution=28", "data.channels=4", f"data.cache_dir={runs.cache_dir()}")
    return ("data=image_folder", f"data.root={folder}", *size)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> runs.Run:
    return runs.train(tmp_path_factory.mktemp("trained"), *data, "data.validation=8", "metrics=[]")


AUTOENCODER = (runs.AUTOENCODER, "loss/perceptual=zero")
TRAINING = {
    "default metrics": ((), None),
    "fashion": (("extractor=fashion",), UNSEEN),
    "dinov2": (("extractor=dinov2",), UNSEEN),
    "a codec": (AUTOENCODER, None),
    "a codec with LPIPS's like": ((runs.AUTOENCODER,), "no network sees 4 channels; set data.channels=3 or"),
    "a codec without metrics": ((*AUTOENCODER, "metrics=[]"), None),
    "pixels": (("extractor=raw", "metrics=[frechet]"), None),
}


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "line"), TRAINING.values(), ids=TRAINING.keys())
def test_training_draws_and_measures_or_says_in_one_line_why_not(overrides, line, data, tmp_path):
    arguments = runs.toy(*data, "data.validation=8", *overrides)
    run = runs.call("train.py", *runs.outputs(tmp_path, *arguments), cwd=tmp_path)
    if line is None:
        assert run.status == 0, run.stderr
    else:
        assert run.status == 1 and line in run.stderr and "Traceback" not in run.stderr
        assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_samples_are_drawn_measured_and_shown(trained, data, tmp_path):
    drawn = runs.sample(tmp_path / "drawn", trained.last, "n=3", "npz=true")
    with Image.open(tmp_path / "drawn" / "images" / "000000.png") as image:
        assert image.mode == "RGBA" and len(drawn.images) == 3
    chosen = ("extractor=raw", "metrics=[frechet,memorization,precision_recall]", "bits_per_dim.n=2")
    found = runs.evaluate(tmp_path / "pixels", trained.last, "n=8", "chunk=8", "bits_per_dim.steps=1", *chosen)
    assert len(found["values"]) == 7 and len(found["likelihood"]) == 1
    assert (tmp_path / "pixels" / "closest_pairs.png").is_file()
    for extractor in ("fashion", "inception", "clip"):
        (tmp_path / extractor).mkdir()
        arguments = [f"checkpoint={trained.last}", "accelerator=cpu", f"extractor={extractor}", "metrics=[frechet]"]
        run = runs.call("evaluate.py", *runs.outputs(tmp_path / extractor, *arguments), cwd=tmp_path)
        assert run.status == 1 and f"the extractor {extractor} {UNSEEN}" in run.stderr
