"""Training as a user starts it: what it writes, and where."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image

import runs

EXPERIMENTS = sorted(path.stem for path in (runs.ROOT / "conf/experiment").glob("*.yaml"))


# Experiments that start from a checkpoint, and how that is made.
STARTED_FROM = {
    "scd_cifar10": ["experiment=edm_cifar10", "conditioner=unconditional", "~conditioner.dropout"],
    "ect_cifar10": ["experiment=edm_cifar10"],
}


@pytest.mark.parametrize(
    "name", [name for name in EXPERIMENTS if name.endswith("cifar10") and not name.startswith("dmd2")]
)
def test_every_experiment_trains_at_toy_size(name, tmp_path, cifar10_root):
    """Everything but the sizes as shipped; Inception's weights cannot be had offline. ``dmd2_cifar10`` is trained in
    ``test_distillation``, after its teacher."""
    sizes = [f"data.root={cifar10_root}", f"data.cache_dir={tmp_path}", "data.validation=8", "metrics=[]"]
    often = ["trainer.val_check_interval=2", "callbacks.throughput.every_n_steps=1"]
    if name in STARTED_FROM:
        before = runs.train(tmp_path / "before", *STARTED_FROM[name], *sizes, runs.NO_EVALUATION)
        small = [o for o in runs.toy() if not o.startswith(("model.", "sampler", "optimizer"))]
        chosen = [*small, f"experiment={name}", f"init={before.last}"]
        started = runs.call("train.py", *runs.outputs(tmp_path / "run", *chosen, *sizes, *often), cwd=tmp_path)
        run = replace(runs.succeeded(started), folder=tmp_path / "run")
    else:
        run = runs.train(tmp_path / "run", f"experiment={name}", *sizes, *often)
    losses = run.logged("train/loss")
    assert list(losses) == [1, 2] and all(map(math.isfinite, losses.values()))
    assert math.isfinite(run.logged("val/loss")[2])
    assert run.checkpoint()["global_step"] == 2
    with Image.open(run.folder / "samples/step-00000002.png") as picture:
        assert picture.mode == "RGB" and len(picture.getcolors(1 << 20)) > 100  # noise, not a single colour
    assert not any(name.startswith(("fid", "fd")) for row in run.rows for name in row)


@pytest.fixture
def captioned(tmp_path) -> list[str]:
    """Colour pictures of 64 pixels with captions, in the place of data that are fetched."""
    folder, rng = tmp_path / "captioned", np.random.default_rng(0)
    folder.mkdir()
    lines = []
    for i in range(16):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"picture number {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return ["data=image_folder", f"data.root={folder}", "data.validation=4"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith(("autoencoder", "clip"))])
def test_every_experiment_of_a_part_trains_at_toy_size(name, tmp_path, captioned):
    """Text to image, which needs their checkpoints, is trained in ``test_text_to_image``."""
    task = {"autoencoder": runs.AUTOENCODER, "clip": runs.CLIP}[name.partition("_")[0]]
    asked = [f"experiment={name}", task, "trainer.val_check_interval=2", "callbacks=[latent_statistics,checkpoints]"]
    asked[-1] = asked[-1] if task == runs.AUTOENCODER else runs.NO_EVALUATION
    run = runs.train(tmp_path / "run", *asked, "metrics=[]", *(captioned if name.endswith("emoji") else []))
    assert math.isfinite(run.logged("train/loss")[2]) and run.checkpoint()["global_step"] == 2


AFTER_PICTURES = ["colorization_emoji", "concat_edges_fashion", "inpainting_fashion", "regression_fashion"]


@pytest.mark.parametrize("name", [*AFTER_PICTURES, "super_resolution_fashion"])
def test_every_experiment_with_pictures_trains_at_toy_size(name, tmp_path, captioned):
    """``control_edges_fashion`` and ``edit_emoji``, which need checkpoints, are trained in tests of their own."""
    colours = [*captioned, "data.resolution=16", "extractor=raw"] if name.endswith("emoji") else []
    often = ("trainer.val_check_interval=2", "callbacks.sample_grid.every_n_steps=2", "metrics=[]")
    one = ["sampler=ddim", "sampler.steps=1"] if name == "regression_fashion" else []  # its only noise level
    run = runs.train(tmp_path / "run", f"experiment={name}", *often, *colours, *one)
    assert math.isfinite(run.logged("train/loss")[2]) and run.checkpoint()["global_step"] == 2
    with Image.open(run.folder / "samples/step-00000002.png") as picture:
        assert len(picture.getcolors(1 << 20)) > 10


def test_a_run_leaves_its_files_in_one_folder(trained):
    assert {path.name for path in trained.folder.iterdir()} == {
        ".hydra",
        "checkpoints",
        "metrics.jsonl",
        "result.json",
        "samples",
        "train.log",
        ".running",
    }
    written = {path.name for path in (trained.folder / "checkpoints").iterdir()}
    assert written == {"best.ckpt", "evaluated.json", "last.ckpt"}
    assert "fd_fashion_20" in (trained.folder / "train.log").read_text()


def test_a_run_ends_with_a_table_of_what_it_did(trained):
    printed = " ".join(trained.stdout.split())
    for word in (
        "9,976 training images",
        "2 steps of 8",
        "fd_fashion_20",
        "20 samples",
        "Heun(steps=2, grid=Uniform",
        "EMA std0",
    ):
        assert word in printed
    assert f"{trained.logged('fd_fashion_20')[2]:.4g}" in printed and "real data score" in printed


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lines_of_metrics_count_optimizer_steps_and_their_images(tmp_path, accumulate):
    often = ["trainer.val_check_interval=2", "callbacks.sample_metrics.every_n_steps=2"]
    often += ["callbacks.throughput.every_n_steps=1", "callbacks=[throughput,sample_metrics]"]
    run = runs.train(tmp_path, f"trainer.accumulate_grad_batches={accumulate}", "trainer.max_steps=4", *often)
    assert all(row.keys() > {"step", "images", "seconds"} for row in run.rows)
    assert all(type(row["step"]) is int and row["images"] == row["step"] * 8 for row in run.rows)
    seconds = [row["seconds"] for row in run.rows]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert list(run.logged("train/loss")) == [1, 2, 3, 4]
    assert list(run.logged("fd_fashion_20")) == [2, 4]
    assert list(run.logged("val/loss")) == [2, 4]
    assert {row["images"] for row in run.rows} == {8, 16, 24, 32}


@pytest.mark.slow
def test_seeds_are_runs_of_their_own(tmp_path):
    seeds = {"a": 5, "b": 5, "c": 6}
    a, b, c = (runs.train(tmp_path / k, f"seed={v}", runs.NO_EVALUATION).checkpoint() for k, v in seeds.items())
    assert runs.equal(a["state_dict"], b["state_dict"])
    assert not runs.equal(a["state_dict"], c["state_dict"])


@pytest.mark.slow
def test_a_sweep_makes_a_run_of_each_value(tmp_path):
    fixed = runs.toy(runs.NO_EVALUATION)
    run = runs.call("train.py", "-m", "schedule=linear,cosine", f"hydra.sweep.dir={tmp_path}", *fixed, cwd=tmp_path)
    runs.succeeded(run)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["0", "1"]
    jobs = [runs.Run(0, "", "", tmp_path / job) for job in "01"]
    named = [job.checkpoint()["config"]["task"]["denoiser"]["schedule"]["_target_"] for job in jobs]
    assert named == ["oboro.schedule.Linear", "oboro.schedule.Cosine"]
    assert all(list(job.logged("train/loss")) == [1, 2] for job in jobs)
    assert jobs[0].logged("train/loss") != jobs[1].logged("train/loss")


@pytest.mark.slow
def test_the_first_command_works_in_an_empty_folder(tmp_path):
    """In a process of its own: nothing on stderr, outputs below the folder where it was typed."""
    run = runs.succeeded(runs.shell("train.py", *runs.toy("logger=[jsonl,tensorboard]"), cwd=tmp_path))
    assert "Traceback" not in run.stderr and len(run.stderr.splitlines()) <= 2  # the warning about 20 samples
    assert run.stdout.startswith("step 1/2") and "fd_fashion_20" in run.stdout
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert {"checkpoints", "samples", "metrics.jsonl", "tensorboard", "train.log"} <= {p.name for p in folder.iterdir()}
    assert any((folder / "tensorboard").glob("events*"))


def test_a_checkpoint_says_which_data_it_learned_and_finds_them_from_every_folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    small = ("data.channels=1", "data.resolution=8", "data.validation=8")
    run = runs.train(tmp_path, "data=image_folder", "data.root=pictures", *small, runs.NO_EVALUATION)
    checkpoint = run.checkpoint()
    settings = checkpoint["config"]["data"]
    assert settings["root"] == str(tmp_path / "pictures")
    data = instantiate(settings)
    data.prepare_data()
    data.setup()
    assert checkpoint["fingerprint"] == data.fingerprint
