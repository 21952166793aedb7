"""detect.py: what it decides does not depend on company, calibration comes back, and nothing of a test moves it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import runs

COMMON = ("accelerator=cpu", "overwrite=true", "normals=12", "chunk=5")
CLOTHES = ("data=fashion_mnist_10k", f"data.cache_dir={runs.cache_dir()}")
ERROR = ("detector=denoising_error", "detector.times=[0.2,0.5]", "detector.draws=1")


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A model that has not seen a test part, nor class 4."""
    settings = ("data.test=20", "data.left_out=[4]", "metrics=[]", runs.NO_EVALUATION)
    return runs.train(tmp_path_factory.mktemp("tested"), *settings).last


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Clothes, and one that has been scratched."""
    folder = tmp_path_factory.mktemp("looked_at")
    g = np.random.default_rng(0)
    for k in range(7):
        picture = np.zeros((28, 28), np.uint8)
        picture[4:24, 6:22] = 120 + 10 * k
        if k == 3:
            picture[10:13, 2:26] = g.integers(256, size=(3, 24))
        Image.fromarray(picture).save(folder / f"{k}.png")
    return folder


def detect(folder, *arguments: str) -> runs.Run:
    folder.mkdir(parents=True, exist_ok=True)
    return runs.call("detect.py", *runs.outputs(folder, *COMMON, *arguments), cwd=folder)


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "scores.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def scores(folder: Path) -> dict[str, float]:
    return {name: float(row["score"]) for name, row in table(folder).items() if row["score"]}


def test_pictures_are_sorted_the_same_in_any_company_and_by_a_stored_detector(checkpoint, pictures, tmp_path):
    model = f"checkpoint={checkpoint}"
    run = runs.succeeded(detect(tmp_path / "a", model, *ERROR, f"images={pictures}"))
    found, content = scores(tmp_path / "a"), yaml.safe_load((tmp_path / "a" / "detector.yaml").read_text())
    assert len(found) == 7 and "2 evaluations of the network each" in run.stdout
    threshold = content["calibration"]["threshold"]
    assert {n: row["decision"] for n, row in table(tmp_path / "a").items()} == {
        name: "rejected" if score > threshold else "accepted" for name, score in found.items()
    }
    runs.succeeded(detect(tmp_path / "b", model, *ERROR, f"images={pictures}", "chunk=7"))
    assert scores(tmp_path / "b") == pytest.approx(found, rel=1e-4)
    stored = f"calibrated={tmp_path / 'a' / 'detector.yaml'}"
    runs.succeeded(detect_stored(tmp_path / "c", stored, f"images={pictures}"))
    assert scores(tmp_path / "c") == pytest.approx(found, rel=1e-4)
    for kind in ("maps", "overlays"):
        assert sorted(p.stem for p in (tmp_path / "a" / kind).iterdir()) == [str(k) for k in range(7)]
    assert Image.open(tmp_path / "a" / "maps" / "3.png").size == (28, 28)


def detect_stored(folder, *arguments: str) -> runs.Run:
    folder.mkdir(parents=True, exist_ok=True)
    given = ("accelerator=cpu", "overwrite=true", "chunk=5")
    return runs.call("detect.py", *runs.outputs(folder, *given, *arguments), cwd=folder)


def test_a_stored_detector_that_has_learned_needs_neither_model_nor_data(pictures, tmp_path):
    data = (*CLOTHES, "data.validation=24")
    runs.succeeded(detect(tmp_path / "a", "detector=pca", "detector.components=9", *data, f"images={pictures}"))
    stored = f"calibrated={tmp_path / 'a' / 'detector.yaml'}"
    runs.succeeded(detect_stored(tmp_path / "b", stored, f"images={pictures}"))
    assert scores(tmp_path / "b") == scores(tmp_path / "a")
    refused = detect_stored(tmp_path / "c", stored, f"images={pictures}", "share=0.5")
    assert refused.status == 1 and "share means nothing" in refused.stderr
    (tmp_path / "a" / "detector.pt").write_bytes(b"PK")
    refused = detect_stored(tmp_path / "c", stored, f"images={pictures}")
    assert refused.status == 1 and "calibrate anew" in refused.stderr


def test_a_stored_detector_is_of_one_model(checkpoint, pictures, tmp_path):
    """Weights that were trained further have another threshold."""
    model = tmp_path / "model.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content, model)
    runs.succeeded(detect(tmp_path / "a", f"checkpoint={model}", *ERROR, f"images={pictures}"))
    for average in content["ema"]["averages"].values():
        for weight in average if isinstance(average, list) else average.values():
            weight += 0.1
    torch.save(content, model)
    run = detect_stored(tmp_path / "b", f"calibrated={tmp_path / 'a' / 'detector.yaml'}", f"images={pictures}")
    assert run.status == 1 and "other weights" in run.stderr


def test_a_picture_that_cannot_be_read_ends_nothing(pictures, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.png").write_bytes((pictures / "1.png").read_bytes())
    (folder / "b.png").write_bytes(b"no picture")
    data = (*CLOTHES, "data.validation=24")
    run = runs.succeeded(detect(tmp_path / "out", "detector=pca", *data, f"images={folder}"))
    rows = table(tmp_path / "out")
    assert rows["b.png"]["decision"] == "unreadable" and rows["a.png"]["score"]
    assert "1 cannot be read" in run.stdout and "b.png is left out" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    {
        "no model": (("detector=partial_diffusion", "data=fashion_mnist_10k"), ["checkpoint="]),
        "no data": (("detector=pca",), ["data="]),
        "a model that is not read": (("detector=pca", "checkpoint={checkpoint}"), ["leave checkpoint out"]),
        "no bottleneck": (("detector=autoencoding", "checkpoint={checkpoint}"), ["bottleneck"]),
        "both": (("checkpoint={checkpoint}", "images=x", "anomalies=flipped"), ["one of the two"]),
        "no noise": (("checkpoint={checkpoint}", "detector.times=[0.0]"), ["above 0"]),
        "no such file": (("checkpoint={checkpoint}", "images=nowhere", *ERROR), ["nowhere"]),
        "nothing held out": (("detector=pca", *CLOTHES, "data.validation=0"), ["data.validation=0.1"]),
    }.values(),
)
def test_mistakes_are_named_with_the_remedy(checkpoint, tmp_path, arguments, words):
    run = detect(tmp_path, *(argument.format(checkpoint=checkpoint) for argument in arguments))
    assert run.status == 1 and all(word in run.stderr for word in words), run.stderr
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr


def test_the_threshold_is_fixed_before_the_test_and_its_numbers_are_those_of_the_file(tested, tmp_path):
    common = (f"checkpoint={tested}", *ERROR, "resamples=50")
    runs.succeeded(detect(tmp_path / "flipped", *common, "anomalies=flipped"))
    runs.succeeded(detect(tmp_path / "defects", *common, "anomalies=defects"))
    flipped, defects = (yaml.safe_load((tmp_path / n / "detector.yaml").read_text()) for n in ("flipped", "defects"))
    assert flipped["calibration"] == defects["calibration"]
    report = json.loads((tmp_path / "defects" / "detection.json").read_text())
    rows = table(tmp_path / "defects").values()
    rejected = [(int(row["anomalous"]), int(row["rejected"])) for row in rows]
    assert report["protocol"]["threshold"] == defects["calibration"]["threshold"]
    assert report["metrics"]["recall"]["value"] == pytest.approx(np.mean([r for a, r in rejected if a]))
    assert report["metrics"]["fpr"]["value"] == pytest.approx(np.mean([r for a, r in rejected if not a]))
    assert {"pixel_auroc", "aupro_0.3"} <= set(report["metrics"])
    assert (tmp_path / "defects" / "examples.png").exists()
    again = detect_stored(
        tmp_path / "again", f"calibrated={tmp_path / 'defects' / 'detector.yaml'}", "anomalies=defects", "resamples=50"
    )
    assert runs.succeeded(again)
    stored = json.loads((tmp_path / "again" / "detection.json").read_text())
    assert stored["metrics"] == report["metrics"]


def test_classes_that_were_left_out_are_anomalous_and_another_split_is_refused(tested, tmp_path):
    common = (f"checkpoint={tested}", *ERROR, "resamples=20")
    runs.succeeded(detect(tmp_path / "out", *common, "anomalies=labelled", "anomalies.n=20"))
    kinds = [(row["kind"], row["anomalous"]) for row in table(tmp_path / "out").values()]
    assert set(kinds) == {("good", "0"), ("class 4", "1")}
    for typed in ("data.test=30", "data.left_out=[]", "data.seed=1"):
        run = detect(tmp_path / "other", *common, "anomalies=flipped", typed)
        assert run.status == 1 and "it has learned from" in run.stderr.replace("\n", " "), run.stderr


def test_pictures_that_are_followed_are_looked_at_one_by_one(pictures, tmp_path):
    data = (*CLOTHES, "data.validation=24", "detector=pca", "detector.components=9")
    runs.succeeded(detect(tmp_path / "a", *data, f"images={pictures}"))
    stored = f"calibrated={tmp_path / 'a' / 'detector.yaml'}"
    run = runs.succeeded(detect_stored(tmp_path / "b", stored, f"images={pictures}", "follow=0.3"))
    assert scores(tmp_path / "b") == pytest.approx(scores(tmp_path / "a"), rel=1e-5)
    lines = [line for line in run.stdout.splitlines() if ".png, " in line]
    assert [line.split(",")[0] for line in lines] == [f"{k}.png" for k in range(7)]
    refused = detect_stored(tmp_path / "c", stored, f"images={pictures / '0.png'}", "follow=1")
    assert refused.status == 1 and "images=<a folder>" in refused.stderr


@pytest.mark.slow
def test_every_detector_runs_and_noise_is_far_from_all_normal_patches(checkpoint, tmp_path):
    folder, g = tmp_path / "noise", np.random.default_rng(1)
    folder.mkdir()
    Image.fromarray(g.integers(256, size=(28, 28), dtype=np.uint8)).save(folder / "noise.png")
    model = f"checkpoint={checkpoint}"
    asked = {
        "likelihood": (model, "detector=likelihood", "detector.steps=2"),
        "patch_core": (model, "detector=patch_core", "detector.samples=20", "score=max"),
        "patch_core_fashion": (*CLOTHES, "data.validation=24", "detector=patch_core_fashion", "detector.samples=20"),
        "ddad": (model, "detector.times=[0.4]", "guidance=ddad", "sampler=ddim", "sampler.steps=4"),
    }
    for name, words in asked.items():
        runs.succeeded(detect(tmp_path / name, *words, f"images={folder}"))
        (row,) = table(tmp_path / name).values()
        if name.startswith("patch"):  # what others say of random weights means nothing
            assert row["decision"] == "rejected", (name, row)
        assert (tmp_path / name / "maps" / "noise.png").exists() == (name != "likelihood")


@pytest.mark.slow
def test_series_are_told_by_numbers_and_a_table(tmp_path):
    t = np.arange(32)
    clean = np.sin(t / 4 + np.arange(80)[:, None])[:, None].astype(np.float32)
    np.savez(tmp_path / "sines.npz", series=clean)
    settings = ("data=series", f"data.path={tmp_path / 'sines.npz'}", "model=unet_1d", "metrics=[]")
    model = runs.train(tmp_path / "run", *settings, runs.NO_EVALUATION).last
    odd = tmp_path / "odd"
    odd.mkdir()
    lines = np.where(t == 15, 9.0, np.sin(t / 4))
    (odd / "spike.csv").write_text("a\n" + "\n".join(f"{x:.6f}" for x in lines) + "\n")
    runs.succeeded(detect(tmp_path / "out", f"checkpoint={model}", *ERROR, f"images={odd}", "score=max"))
    assert list(table(tmp_path / "out")) == ["spike.csv"]
    assert not (tmp_path / "out" / "maps").exists()
