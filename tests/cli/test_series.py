"""Data that are no pictures, from end to end: trained, sampled, measured, written and resumed by the same classes."""

import numpy as np
import pytest
import torch
from PIL import Image

import runs

LEARNED = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step", "modality")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Sines around 20 with labels: slow ones are class 0, fast ones class 1."""
    rng = np.random.default_rng(0)
    t, label = np.arange(32) / 32, np.arange(300) % 2
    phase, frequency = rng.uniform(0, 2 * np.pi, (300, 1)), 1 + 2 * label[:, None]
    path = tmp_path_factory.mktemp("series") / "sines.npz"
    series = 20 + 5 * np.sin(2 * np.pi * frequency * t + phase)
    np.savez(path, series=series.astype(np.float32), labels=label)
    return path


@pytest.fixture(scope="module")
def settings(record):
    return (f"data.path={record}", "data=series", "model=unet_1d", "conditioner=label", "data.num_classes=2")


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    return runs.train(tmp_path_factory.mktemp("trained"), *settings, "trainer.max_steps=4")


def test_training_measures_in_the_space_of_the_data_and_plots(trained):
    (row,) = [row for row in trained.rows if "fd_raw_20" in row]
    assert np.isfinite(row["fd_raw_20"]) and "276 training series of 1×32" in trained.stdout
    assert "float32" in trained.stdout
    picture = Image.open(trained.folder / "samples" / "step-00000004.png")
    assert picture.width > 200 and np.asarray(picture).std() > 5


def test_samples_are_files_in_the_units_of_the_data(trained, record, tmp_path):
    record.rename(record.with_suffix(".away"))  # sampling needs no data
    try:
        runs.sample(tmp_path, trained.last, "n=6", "npz=true")
    finally:
        record.with_suffix(".away").rename(record)
    files = sorted((tmp_path / "series").iterdir())
    assert [path.name for path in files] == [f"{i:06d}.csv" for i in range(6)]
    numbers = np.stack([np.loadtxt(path, dtype=np.float32, ndmin=2).T for path in files])
    with np.load(tmp_path / "samples.npz") as file:
        assert np.array_equal(file["series"], numbers) and file["labels"].tolist() == [0, 1] * 3
    assert 10 < numbers.mean() < 30 and (tmp_path / "grid.png").is_file()
    kept = trained.checkpoint()["modality"]
    mean, std = kept["mean"][0], kept["std"][0]
    assert mean == pytest.approx(20, abs=0.1) and std == pytest.approx(5 / 2**0.5, abs=0.05)


@pytest.mark.slow
def test_what_is_drawn_and_what_its_files_hold_measure_the_same(trained, tmp_path):
    drawn = runs.evaluate(tmp_path / "drawn", trained.last, "n=20", "chunk=20", "metrics=[frechet,memorization]")
    assert (tmp_path / "drawn" / "closest_pairs.png").is_file() and (tmp_path / "drawn" / "samples.png").is_file()
    assert drawn["protocol"]["quantisation"] == "float32" and drawn["protocol"]["extractor"] == "raw"
    runs.sample(tmp_path / "files", trained.last, "n=20", "chunk=20", "npz=true")
    for path in ("series", "samples.npz"):
        found = runs.evaluate(tmp_path / path, trained.last, f"images={tmp_path / 'files' / path}", "metrics=[frechet]")
        assert found["protocol"]["samples"] == 20
        assert np.isfinite(found["values"]["fd_raw_20"])


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(settings, tmp_path):
    six = (*settings, "trainer.max_steps=6", "callbacks.checkpoints.every_n_steps=3", runs.NO_EVALUATION)
    straight = runs.train(tmp_path / "straight", *six)
    cut = runs.toy(*six, "+callbacks.cut={_target_: recorder.PowerCut, step: 4, batches: 0}")
    assert runs.call("train.py", *runs.outputs(tmp_path / "cut", *cut), cwd=tmp_path).status == 1
    last = runs.Run(1, "", "", tmp_path / "cut").last
    resumed = runs.train(tmp_path / "resumed", *six, f"resume={last}")
    first, second = (run.checkpoint() for run in (straight, resumed))
    assert all(runs.equal(first[key], second[key]) for key in LEARNED)


def test_a_run_does_not_go_on_with_other_data(settings, trained, record, tmp_path):
    with np.load(record) as file:
        np.savez(tmp_path / "others.npz", series=file["series"] + 1, labels=file["labels"])
    others = runs.toy(
        *settings, f"data.path={tmp_path / 'others.npz'}", "trainer.max_steps=6", f"resume={trained.last}"
    )
    run = runs.call("train.py", *runs.outputs(tmp_path / "other", *others), cwd=tmp_path)
    assert run.status == 1 and "the data have changed" in run.stderr and "mean was" in run.stderr


@pytest.mark.parametrize(
    ("typed", "mentions"),
    [
        (["model=unet_tiny"], ["UNet reads samples with 2 axes", "1×32", "choose model=unet_1d"]),
        (["extractor=inception"], ["inception sees grey and RGB images", "choose extractor=raw"]),
        (["task=autoencoder"], ["an autoencoder is trained on images"]),
        (["data.channels=2"], ["set data.channels=1"]),
        (["+data.lenght=2"], ["there is no key data.lenght; there are"]),
    ],
)
def test_parts_for_pictures_say_so_before_training(settings, tmp_path, typed, mentions):
    usual = [o for o in settings if not any(o.split("=")[0] == t.split("=")[0] for t in typed)]
    if "task=autoencoder" in typed:
        usual = [o for o in usual if o.startswith("data.path") or o == "data=series"]
    run = runs.call("train.py", *runs.outputs(tmp_path / "run", *runs.toy(*usual, *typed)), cwd=tmp_path)
    assert run.status == 1 and run.stderr.count("error:") == 1 and "Traceback" not in run.stderr
    assert all(mention in run.stderr for mention in mentions), run.stderr


def test_bits_per_dimension_are_for_pictures(trained, tmp_path):
    arguments = (f"checkpoint={trained.last}", "accelerator=cpu", "n=10", "bits_per_dim.n=2")
    run = runs.call("evaluate.py", *runs.outputs(tmp_path, *arguments), cwd=tmp_path)
    assert run.status == 1 and "bits per dimension are a measure for numbers of 8 bits" in run.stderr


def test_a_checkpoint_draws_what_its_own_data_are(trained, tmp_path):
    content = trained.checkpoint()
    content["modality"]["_target_"] = "os.system"
    torch.save(content, tmp_path / "evil.ckpt")
    run = runs.call("sample.py", *runs.outputs(tmp_path, f"checkpoint={tmp_path / 'evil.ckpt'}"), cwd=tmp_path)
    assert run.status == 1 and "os.system, which is not a class of oboro" in run.stderr
