"""``data=image_folder data.root=...`` alone: what the run takes from the folder, and what it says."""

import json

import numpy as np
import pytest
from PIL import Image

import runs

FOLDER = ("data=image_folder", "extractor=raw", runs.NO_EVALUATION, "metrics=[]")


def paint(folder, classes, side=(12, 12), mode="L", count=20):
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (*side, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{i}.png")
    return folder


def test_a_folder_of_classes_trains_with_labels_at_its_own_size(tmp_path):
    root = paint(tmp_path / "digits", ["0", "1", "2"])
    (root / "1" / "notes.doc").write_text("")
    run = runs.train(tmp_path / "run", f"data.root={root}", *FOLDER)
    config = run.checkpoint()["config"]
    assert {key: config["data"][key] for key in ("channels", "resolution", "num_classes")} == {
        "channels": 1,
        "resolution": 12,
        "num_classes": 3,
    }
    assert config["task"]["conditioner"]["_target_"] == "oboro.conditioner.Label"
    assert config["task"]["denoiser"]["network"]["num_classes"] == 3
    found = (
        "the data: 60 images of 12×12, grey; 3 classes (0, 1, 2) (data.channels=1, data.resolution=12, "
        "data.num_classes=3)"
    )
    assert found in run.stdout.splitlines()
    log = (run.folder / "train.log").read_text()
    assert found in log and "left out of the data: 1 other suffix (.doc 1); " in log
    again = runs.train(tmp_path / "again", f"data.root={root}", *FOLDER)  # from the cache
    assert "left out of the data" in (again.folder / "train.log").read_text()


# What is in the folder and typed, and what follows: shape, number of classes, conditioner, and a line on the terminal.
CASES = {
    "no classes": (
        {"classes": ["."], "count": 60},
        (),
        (1, 12, 12),
        0,
        "Unconditional",
        "60 images of 12×12, grey; no classes (",
    ),
    "one class is none": ({"classes": ["all"], "count": 60}, (), (1, 12, 12), 0, "Unconditional", "no classes ("),
    "colour, not square": (
        {"classes": "ab", "side": (8, 12), "mode": "RGB"},
        (),
        (3, 8, 12),
        2,
        "Label",
        "of 8×12, in colour; 2 classes (a, b) (",
    ),
    "labels are ignored": (
        {"classes": "ab"},
        ("data.num_classes=0",),
        (1, 12, 12),
        0,
        "Unconditional",
        "2 classes (a, b) are not read: data.num_classes=0",
    ),
    "nobody reads labels": (
        {"classes": "ab"},
        ("conditioner=unconditional",),
        (1, 12, 12),
        2,
        "Unconditional",
        "the data have labels of 2 classes that no condition reads; conditioner=label does",
    ),
    "enlarged": (
        {"classes": "ab"},
        ("data.resolution=16",),
        (1, 16, 16),
        2,
        "Label",
        "40 of 40 images are smaller than 16×16 and enlarged; set data.resolution=12, their size",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_what_a_folder_is_decides(tmp_path, kind):
    folder, typed, shape, num_classes, conditioner, line = CASES[kind]
    root = paint(tmp_path / "pictures", **folder)
    run = runs.train(tmp_path / "run", f"data.root={root}", *FOLDER, *typed)
    checkpoint = run.checkpoint()
    config = checkpoint["config"]
    modality = checkpoint["modality"]
    assert (modality["channels"], modality["height"], modality["width"]) == shape
    assert config["data"]["num_classes"] == num_classes
    assert config["task"]["conditioner"]["_target_"] == f"oboro.conditioner.{conditioner}"
    assert line in run.stdout + run.stderr and "auto" not in json.dumps(config["data"])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "conditioner=label",
            "conditioner=label needs labelled data and data.num_classes is 0; give the data labels and set "
            "data.num_classes=auto, or use conditioner=unconditional.",
        ),
        (
            "conditioner.dropout=0.2",
            "conditioner.dropout=0.2 is for labels and the data have no classes; leave it out.",
        ),
        ("data.num_classes=3", "data.num_classes=3, but the samples have no labels; set data.num_classes=0."),
    ],
)
def test_labels_that_are_wanted_and_not_there_are_a_mistake(tmp_path, typed, message):
    root = paint(tmp_path / "pictures", ["."], count=60)
    arguments = runs.toy(f"data.root={root}", *FOLDER, typed)
    run = runs.call("train.py", *runs.outputs(tmp_path, *arguments), cwd=tmp_path)
    assert run.status == 1 and run.stderr.splitlines()[-1].endswith(message)


@pytest.mark.slow
def test_pictures_fit_the_model_that_training_starts_from(tmp_path):
    first = runs.train(tmp_path / "first", "conditioner=unconditional", runs.NO_EVALUATION, "metrics=[]")
    root = paint(tmp_path / "pictures", ["."], side=(32, 40), mode="RGB", count=60)
    small = [
        "data.batch_size=8",
        f"data.cache_dir={runs.cache_dir()}",
        "trainer.max_steps=1",
        "trainer.accelerator=cpu",
    ]
    typed = [f"init={first.last}", f"data.root={root}", *FOLDER, *small]
    (tmp_path / "run").mkdir()
    run = runs.succeeded(runs.call("train.py", *runs.outputs(tmp_path / "run", *typed), cwd=tmp_path / "run"))
    assert "of the model in init: data.channels=1, data.resolution=28" in run.stdout.splitlines()
    assert run.checkpoint()["modality"] == first.checkpoint()["modality"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folders", "line"),
    [
        (["a", "b", "c"], "knows 10 classes and the data have 3 others, so it is trained without labels"),
        (["."], "knows 10 classes and the data have none, so it is trained without labels"),
        (list("0123456789"), None),
    ],
)
def test_classes_that_the_model_does_not_know_are_not_read(tmp_path, folders, line):
    """As documented, with nothing but the folder; other classes that are wanted all the same end in one line."""
    first = runs.train(tmp_path / "first", runs.NO_EVALUATION, "metrics=[]")
    root = paint(tmp_path / "pictures", folders, side=(28, 28), count=60)
    small = [
        "data.batch_size=8",
        f"data.cache_dir={runs.cache_dir()}",
        "trainer.max_steps=1",
        "trainer.accelerator=cpu",
    ]
    typed = [f"init={first.last}", "adapter=lora", f"data.root={root}", *FOLDER, *small]
    (tmp_path / "run").mkdir()
    run = runs.succeeded(runs.call("train.py", *runs.outputs(tmp_path / "run", *typed), cwd=tmp_path / "run"))
    assert ("without labels" in run.stdout + run.stderr) == (line is not None)
    assert line is None or line in run.stdout + run.stderr
    kind = run.checkpoint()["config"]["task"]["conditioner"]["_target_"]
    assert kind == f"oboro.conditioner.{'Label' if line is None else 'Unconditional'}"
