"""A picture and a label as conditions, from a folder of files to samples and their measurement."""

import json

import numpy as np
import pytest
from PIL import Image

import runs

pytestmark = pytest.mark.slow  # processes and whole runs

SIDE, TRAINED = 8, 96


def pattern(i: int) -> np.ndarray:
    """Random blocks of black and white, (8, 8)."""
    bits = np.random.default_rng(i).integers(0, 2, (4, 4), dtype=np.uint8)
    return np.kron(255 * bits, np.ones((2, 2), dtype=np.uint8))


def answer(hint: np.ndarray, label: int) -> np.ndarray:
    """The negative of the hint, for label 1 at a quarter of the contrast."""
    return 255 - hint if label == 0 else 128 + (255 - hint.astype(int) - 127) // 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training on pictures that hint and label determine, half of which are mirrored."""
    folder = tmp_path_factory.mktemp("hints")
    pictures, lines = folder / "pictures", []
    pictures.mkdir()
    for i in range(TRAINED):
        hint, label = pattern(i), i % 2
        Image.fromarray(hint).save(pictures / f"hint{i}.png")
        Image.fromarray(answer(hint, label).astype(np.uint8)).save(pictures / f"{i}.png")
        lines.append({"file_name": f"{i}.png", "label": label, "conditioning_image": f"hint{i}.png"})
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = ["data=image_folder", f"data.root={pictures}", "data.channels=1", "data.resolution=8", "data.num_classes=2"]
    data += ["data.hint_channels=1", "data.flip=true", "data.batch_size=32", "extractor=fashion"]
    joint = ["conditioner=joint", "~conditioner@conditioner.parts.text", "+conditioner@conditioner.parts.image=image"]
    settings = ["trainer.max_steps=250", "optimizer=adamw_fast", "ema=ema_constant", runs.NO_EVALUATION, "metrics=[]"]
    return runs.train(folder / "run", *data, *joint, *settings, "model.channels=16")


@pytest.fixture
def hints(tmp_path):
    """Hints that training never saw, in a folder."""
    (tmp_path / "hints").mkdir()
    seen = [pattern(1000 + i) for i in range(8)]
    for i, hint in enumerate(seen):
        Image.fromarray(hint).save(tmp_path / "hints" / f"{i}.png")
    return seen


def drawn(tmp_path, run, *overrides):
    done = runs.sample(tmp_path, run.last, "n=8", f"hint={tmp_path / 'hints'}", "sampler.steps=8", *overrides)
    return np.stack([np.asarray(Image.open(p)) for p in sorted((done.folder / "images").glob("*.png"))]).astype(float)


def error(images, hints, label):
    return np.abs(images - np.stack([answer(hint, label) for hint in hints])).mean()


@pytest.mark.parametrize("guidance", ["guidance=unguided", "guidance=per_condition"])
def test_samples_follow_the_picture_and_the_label_that_they_are_given(tmp_path, run, hints, guidance):
    """Held-out hints; a mirrored image with a hint that is not would have taught their mean. Guidance in both kinds of
    conditions keeps to them."""
    scales = ["guidance.scales={label: 1.2, image: 1.1}"] if guidance.endswith("per_condition") else []
    for label in (0, 1):
        images = drawn(tmp_path, run, f"label={label}", guidance, *scales)
        own, mirrored = error(images, hints, label), error(images, [h[:, ::-1] for h in hints], label)
        assert own < 0.4 * mirrored and own < 0.6 * error(images, hints, 1 - label)


def test_of_several_conditions_those_that_are_not_named_are_shown_in_turn(tmp_path, run, hints):
    """The classes of samples that are given a picture alone are 0, 1, …, as those given as labels."""
    alone, in_turn = drawn(tmp_path, run), drawn(tmp_path, run, "label=[0,1]")
    assert np.array_equal(alone, in_turn)


def test_what_is_missing_is_said_in_one_line(tmp_path, run, hints):
    for arguments, remedy in (
        (["label=0"], "set hint="),
        (["hint=nowhere.png"], "there is no hint=nowhere.png; set hint to a file"),
        ([f"hint={tmp_path / 'hints'}", "prompt=a bag"], "the model reads no text"),
    ):
        failed = runs.call("sample.py", f"checkpoint={run.last}", "accelerator=cpu", "n=2", *arguments, cwd=tmp_path)
        assert failed.status == 1 and remedy in failed.stderr and "Traceback" not in failed.stderr


def test_samples_are_measured_with_hints_and_labels_of_the_data(tmp_path, run):
    found = runs.evaluate(tmp_path, run.last, "n=8", "chunk=4", "metrics=[precision_recall]", "sampler.steps=2")
    assert found["values"] and all(np.isfinite(value) for value in found["values"].values())
