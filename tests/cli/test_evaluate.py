"""evaluate.py: ranges of samples, references and pictures of others, running beside training."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import runs

MANY = "metrics=[frechet,kernel,precision_recall,density_coverage,inception_score,sliced_wasserstein,memorization]"
SMALL = ["n=12", "chunk=6"]


@pytest.mark.slow
def test_every_value_carries_its_protocol_and_what_real_images_score(checkpoint, tmp_path):
    found = runs.evaluate(tmp_path, checkpoint, *SMALL, MANY)
    assert found["values"].keys() == found["metrics"].keys() and len(found["values"]) == 12
    for name, value in found["metrics"].items():
        assert name.endswith("_fashion_12") and value["value"] == found["values"][name]
        assert value["real_n"] == 12 and value["settings"]
    protocol = found["protocol"]
    for key in ("extractor_digest", "resize", "quantisation", "samples", "reference_fingerprint", "reference_split"):
        assert protocol[key]
    assert (protocol["seed"], protocol["first"], protocol["evaluations_per_sample"]) == (0, 0, 2)
    low, high = found["metrics"]["kd_fashion_12"]["interval"]
    assert low < found["values"]["kd_fashion_12"] < high
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == {"values": found["values"], "objective": "fd_fashion_12"}
    with Image.open(tmp_path / "samples.png") as row, Image.open(tmp_path / "closest_pairs.png") as pairs:
        assert row.width == 6 * 86 + 2 and pairs.height > row.height  # the first chunk; two rows


@pytest.mark.slow
def test_the_picture_of_closest_pairs_shows_the_samples_and_training_images_it_names(checkpoint, tmp_path):
    """The first pair: the generated one is what sample.py draws for that id, and labels are those of evaluation."""
    from oboro.modality import to_uint8
    from oboro.restore.checkpoint import load_checkpoint
    from oboro.restore.rebuild import build_task

    found = runs.evaluate(tmp_path, checkpoint, *SMALL, "metrics=[memorization]")
    pair = found["metrics"]["authenticity_fashion_12"]["detail"]["closest"][0]
    _, _, data = runs.built()
    data.setup()
    task = build_task(load_checkpoint(checkpoint))
    cond = task.conditioner.for_samples([pair["sample"]] * 6, data.population)
    with task.averaged():
        drawn = to_uint8(task.generate([pair["sample"]] * 6, 0, cond, (1, 28, 28)))[0, 0]
    pixels = np.asarray(Image.open(tmp_path / "closest_pairs.png"))
    upper, lower = pixels[2 : 2 + 84 : 3, 2 : 2 + 84 : 3], pixels[88 : 88 + 84 : 3, 2 : 2 + 84 : 3]
    assert np.array_equal(upper, drawn.numpy())
    assert np.array_equal(lower, data.train.samples[[pair["training"]]][0, 0].numpy())


def test_repeats_are_disjoint_ranges_and_each_is_what_it_is_alone(checkpoint, tmp_path):
    three = runs.evaluate(tmp_path / "three", checkpoint, *SMALL, "repeats=3", "metrics=[frechet]")
    repeats = three["repeats"]["fd_fashion_12"]
    values = repeats["values"]
    assert len(set(values)) == 3 and values[0] == three["metrics"]["fd_fashion_12"]["value"]
    assert three["values"]["fd_fashion_12"] == repeats["mean"] == pytest.approx(np.mean(values))
    assert repeats["std"] == pytest.approx(np.std(values, ddof=1))
    assert (repeats["min"], repeats["max"]) == (min(values), max(values))
    one = runs.evaluate(tmp_path / "one", checkpoint, *SMALL, "metrics=[frechet]")
    assert one["values"]["fd_fashion_12"] == values[0]


@pytest.mark.slow
def test_published_moments_replace_the_data(checkpoint, tmp_path):
    """Moments of the training images themselves give the same distance; another split has another protocol."""
    from oboro.extractor import Fashion
    from oboro.metrics import FeatureStatistics, look_at

    _, _, data = runs.built()
    data.setup()
    statistics = FeatureStatistics.from_features(look_at(data.train.samples, Fashion())["features"])
    np.savez(tmp_path / "real.npz", mu=statistics.mean.numpy(), sigma=statistics.covariance.numpy())
    own = runs.evaluate(tmp_path / "own", checkpoint, *SMALL, "metrics=[frechet]")
    other = runs.evaluate(
        tmp_path / "other", checkpoint, *SMALL, "metrics=[frechet]", f"reference={tmp_path / 'real.npz'}"
    )
    assert other["values"]["fd_fashion_12"] == pytest.approx(own["values"]["fd_fashion_12"], rel=1e-9)
    assert other["protocol"]["digest"] != own["protocol"]["digest"]
    assert other["protocol"]["reference_split"] == "real.npz" and "real" not in other["metrics"]["fd_fashion_12"]
    arguments = [f"checkpoint={checkpoint}", *SMALL, "metrics=[kernel]", f"reference={tmp_path / 'real.npz'}"]
    run = runs.call("evaluate.py", *runs.outputs(tmp_path / "kernel", *arguments, "accelerator=cpu"), cwd=tmp_path)
    assert run.status == 1 and "moments alone" in run.stderr and run.stderr.count("\n") == 1


def test_pictures_of_another_program_get_the_same_numbers_as_our_own(checkpoint, tmp_path):
    """What sample.py writes, measured from its files, with the labels that it was drawn for."""
    runs.sample(tmp_path / "samples", checkpoint, "n=12", "chunk=6", "npz=true")
    cache = f"data.cache_dir={runs.cache_dir()}"
    common = ["data=fashion_mnist_10k", "data.validation=24", cache, "accelerator=cpu", "metrics=[frechet,accuracy]"]
    values = {}
    for name in ("samples.npz", "images"):
        folder = tmp_path / f"of {name}"
        metrics = ["metrics=[frechet]"] if name == "images" else []
        arguments = [f"images='{tmp_path / 'samples' / name}'", *common, *metrics]
        runs.succeeded(runs.call("evaluate.py", f"hydra.run.dir='{folder}'", *arguments, cwd=tmp_path))
        values[name] = runs.evaluation(folder)
    assert values["samples.npz"]["values"]["fd_fashion_12"] == values["images"]["values"]["fd_fashion_12"]
    assert values["samples.npz"]["values"].keys() == {"fd_fashion_12", "accuracy_fashion_12"}
    run = runs.call("evaluate.py", f"images={tmp_path}", "metrics=[frechet]", cwd=tmp_path)
    assert run.status == 1 and "name data=..." in run.stderr


@pytest.mark.slow
def test_watching_a_run_adds_what_evaluate_says_to_its_metrics(tmp_path):
    """A run that trained unmeasured; its checkpoint is of the last step, so watching ends."""
    run = runs.train(tmp_path / "run", "callbacks=[checkpoints]", "logger=[jsonl,tensorboard]")
    before = run.rows
    arguments = [f"watch={run.folder}", "accelerator=cpu", *SMALL, "metrics=[frechet]"]
    watched = runs.succeeded(runs.call("evaluate.py", *runs.outputs(tmp_path / "watch", *arguments), cwd=tmp_path))
    assert "step 2: fd_fashion_12" in watched.stdout
    assert run.rows[:-1] == before
    (row,) = run.rows[len(before) :]
    alone = runs.evaluate(tmp_path / "alone", run.last, *SMALL, "metrics=[frechet]")
    assert (row["step"], row["images"], row["fd_fashion_12"]) == (2, 16, alone["values"]["fd_fashion_12"])
    assert row["protocol"] == alone["protocol"] and "seconds" not in row
    assert len(list((run.folder / "tensorboard").glob("events*"))) == 2


@pytest.mark.slow
def test_an_average_of_any_length_is_measured_from_snapshots(tmp_path):
    """The width of a tracked profile gives that profile's number."""
    short = ["trainer.max_steps=8", "callbacks=[checkpoints,snapshots]", "callbacks.snapshots.every_n_steps=1"]
    run = runs.train(tmp_path / "run", *short)
    tracked = runs.evaluate(tmp_path / "tracked", run.last, *SMALL, "metrics=[frechet]", "profile=std010")
    found = runs.evaluate(tmp_path / "found", run.last, *SMALL, "metrics=[frechet]", "ema_std=0.1")
    other = runs.evaluate(tmp_path / "other", run.last, *SMALL, "metrics=[frechet]", "ema_std=0.15")
    name = "fd_fashion_12"
    assert found["values"][name] == pytest.approx(tracked["values"][name], rel=1e-4)
    assert abs(other["values"][name] / found["values"][name] - 1) > 1e-6
    assert found["protocol"]["ema"]["std"] == tracked["protocol"]["ema"]["std"] == 0.1
    assert other["protocol"]["ema"] == {"name": "std=0.15", "std": 0.15}
    assert other["protocol"]["digest"] == tracked["protocol"]["digest"]


@pytest.mark.slow
def test_the_likelihood_of_held_out_images_is_reported(checkpoint, tmp_path):
    small = [*SMALL, "metrics=[frechet]", "bits_per_dim.n=4", "bits_per_dim.steps=4"]
    found = runs.evaluate(tmp_path, checkpoint, *small)["likelihood"]["bits_per_dim_4"]
    assert found["interval"][0] < found["value"] < found["interval"][1] and found["settings"]["steps"] == 4
    again = runs.evaluate(tmp_path / "again", checkpoint, *small, "chunk=3")["likelihood"]["bits_per_dim_4"]
    assert again["value"] == pytest.approx(found["value"], rel=1e-4)


@pytest.mark.slow
def test_impossible_wishes_end_in_one_line(checkpoint, tmp_path):
    given = f"checkpoint={checkpoint}"
    cases = {
        ("repeats=0", given): "repeats=0",
        ("profile=std010", "ema_std=0.1", given): "give one of them",
        ("ema_std=0.1", given): "there are no snapshots",
        ("bits_per_dim.n=100", given, *SMALL): "24 held-out images",
        ("watch=nowhere",): "there is no run nowhere",
        (f"watch={tmp_path}", "devices=2"): "one device",
        ("metrics=[inception_score]", "metrics.inception_score.splits=13", given, *SMALL): "undefined below 13",
        ("metrics=[frechet_spatial]", given, *SMALL): "needs spatial",
    }
    for arguments, message in cases.items():
        if arguments[0] == f"watch={tmp_path}":
            (tmp_path / "checkpoints").mkdir()
            (tmp_path / "checkpoints" / "last.ckpt").symlink_to(checkpoint)
        run = runs.call("evaluate.py", *arguments, "accelerator=cpu", cwd=tmp_path)
        assert run.status == 1 and message in run.stderr and run.stderr.count("\n") == 1, (arguments, run.stderr)


@pytest.mark.slow
def test_a_sweep_is_gathered_into_one_table_and_pictures(checkpoint, tmp_path):
    """Each job a process; the best of two is found in the CSV, and a job alone says the same."""
    swept = [f"checkpoint={checkpoint}", "accelerator=cpu", *SMALL, "metrics=[frechet]", "sampler=ddim,heun"]
    arguments = ["-m", *swept, "sampler.steps=2", f"hydra.sweep.dir={tmp_path / 'sweep'}", "hydra.launcher.parallel=2"]
    run = runs.succeeded(runs.shell("evaluate.py", *arguments, cwd=tmp_path))
    with (tmp_path / "sweep/benchmark.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["sampler"] for row in rows] == ["DDIM", "Heun"]
    alone = runs.evaluate(
        tmp_path / "alone", checkpoint, *SMALL, "metrics=[frechet]", "sampler=ddim", "sampler.steps=2"
    )
    assert float(rows[0]["fd_fashion_12"]) == alone["values"]["fd_fashion_12"]
    assert {"pareto.png", "strip.png", "benchmark.json", "jobs.json"} <= {
        p.name for p in (tmp_path / "sweep").iterdir()
    }
    assert "DDIM" in run.stdout and "fd_fashion_12" in run.stdout
