"""F25, F28, F29, F33: what happens to data, their loaders and their caches while a run reads them."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from PIL import Image

import runs
from injection import disk
from oboro.base.errors import UserError
from oboro.data import ImageFolder
from oboro.data.cache import Mapped, open_cached

WORKERS = (runs.NO_EVALUATION, "data.num_workers=1", "trainer.max_steps=50")


def pictures(folder: Path, n: int) -> Path:
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("L", (8, 8), 10 * i).save(folder / f"{i}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "rank"), [(1, 0), (2, 1)])
def test_a_loader_that_is_killed_ends_the_run_with_a_remedy(devices, rank, tmp_path):
    fault = f"+callbacks.fault={{_target_: injection.Fault, does: kill_worker, step: 3, rank: {rank}}}"
    run = processes.train(tmp_path, *WORKERS, f"trainer.devices={devices}", fault)
    assert run.status != 0 and not run.orphans and run.soon(10)
    assert "the data loader's process" in run.stderr and "set data.num_workers to less than 1" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("room", [100, 1000, 20_000])
def test_a_full_disk_is_one_line_and_leaves_no_half_cache(room, tmp_path):
    root = pictures(tmp_path / "pictures", 24)
    data = ImageFolder(root=str(root), channels=1, resolution=64, cache_dir=str(tmp_path / "cache"), validation=0)
    with (
        disk(room),
        pytest.raises(UserError, match=r"cannot write to the cache .*File too large; set data\.cache_dir="),
    ):
        data.prepare_data()
    assert [path.name for path in (tmp_path / "cache/data").iterdir()] in ([], [".lock"])
    data.prepare_data()
    data.setup()
    assert len(data.train) == 24


@pytest.mark.slow
def test_two_that_build_one_cache_at_once_get_one_whole(tmp_path):
    root = pictures(tmp_path / "pictures", 24)
    program = textwrap.dedent("""
        import sys, time
        from oboro.data import ImageFolder
        from oboro.data import cache
        root, folder, start = sys.argv[1:]
        data = ImageFolder(root=root, channels=1, resolution=64, cache_dir=folder, validation=0)
        time.sleep(max(0, float(start) - time.time()))
        data.prepare_data()
        data.setup()
        print(data.fingerprint, len(data.train), data.train.samples[[5]].sum().item())
    """)
    typed = [sys.executable, "-c", program, str(root), str(tmp_path / "cache"), str(time.time() + 8)]
    both = [subprocess.Popen(typed, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=60)[0].splitlines()[-1] for process in both)
    assert first == second and first.split()[1:] == ["24", str(64 * 64 * 50)]
    (folder,) = (path for path in (tmp_path / "cache/data").iterdir() if path.is_dir())
    assert open_cached(folder) is not None


def test_a_cache_that_shrinks_or_goes_is_named(tmp_path):
    path = tmp_path / "samples.npy"
    np.save(path, np.arange(5000, dtype=np.int64))
    mapped, late = Mapped(path), Mapped(path)
    assert mapped()[4999] == 4999
    moved = path.rename(tmp_path / "moved.npy")
    assert mapped()[4999] == 4999  # the system keeps it
    with pytest.raises(UserError, match=r"samples\.npy was changed while it was read \(it is gone\); start again"):
        late()
    moved.rename(path)
    with path.open("r+b") as file:
        file.truncate(2000)
    for one in (mapped, late):  # reading it would be the end of the process
        with pytest.raises(UserError, match=r"samples\.npy was changed while it was read"):
            one()


def test_pictures_that_change_between_listing_and_reading_are_a_line(tmp_path):
    root = pictures(tmp_path / "pictures", 4)
    data = ImageFolder(root=str(root), channels=1, resolution=8, cache_dir=str(tmp_path / "cache"), validation=0)
    data.prepare_data()
    (root / "2.png").unlink()
    with pytest.raises(UserError, match="have changed while they were read"):
        data.setup()


def folder_run(folder: Path, n: int, *typed: str) -> runs.Run:
    """A run on ``n`` pictures of one folder."""
    root = folder / "pictures"
    if n:
        pictures(root, n)
    else:
        root.mkdir()
    chosen = ("data=image_folder", f"data.root={root}", "data.resolution=16", "data.channels=1", *typed)
    return runs.call("train.py", *runs.outputs(folder, *runs.toy(*chosen)), cwd=folder)


@pytest.mark.parametrize("n", [1, 3])
def test_fewer_pictures_than_a_batch_are_seen_again_and_again(n, tmp_path):
    """Position j of the stream is picture j mod n of an epoch: a batch may hold several epochs, and all count alike."""
    record = f"+callbacks.r={{_target_: recorder.Recorder, folder: {tmp_path / 'record'}}}"
    run = folder_run(tmp_path, n, runs.NO_EVALUATION, "data.validation=0", "trainer.max_steps=3", record)
    runs.succeeded(run)
    seen = torch.cat(torch.load(tmp_path / "record/rank0.pt", weights_only=True)["index"])
    assert seen.bincount().tolist() == [24 // n] * n


@pytest.mark.parametrize(
    ("n", "typed", "line"),
    [
        (0, (), "holds no pictures; set data.root="),
        (1, ("data.validation=1",), "has to leave at least one to train on"),
        (1, ("data.validation=0", "callbacks=[sample_metrics,checkpoints]", "metrics=[frechet]"), "frechet"),
    ],
    ids=["none", "none to train on", "none to compare with"],
)
def test_too_few_pictures_are_a_line_before_training(n, typed, line, tmp_path):
    run = folder_run(tmp_path, n, *typed)
    assert run.status == 1 and line in run.stderr and run.stderr.count("\n") == 1, run.stderr
    assert not (tmp_path / "metrics.jsonl").exists()


def test_weights_of_an_extractor_that_cannot_be_had_are_a_line_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    typed = runs.toy("callbacks=[sample_metrics,checkpoints]", "extractor=inception", "metrics=[frechet]")
    run = runs.call("train.py", *runs.outputs(tmp_path, *typed), cwd=tmp_path)
    assert run.status == 1 and run.stderr.startswith("error: the Inception weights for FID are missing")
    assert run.stderr.count("\n") == 1 and not (tmp_path / "metrics.jsonl").exists()


def test_a_damaged_cache_is_decoded_anew_with_a_line(tmp_path, caplog):
    root = pictures(tmp_path / "pictures", 4)
    settings = {"root": str(root), "channels": 1, "resolution": 8, "cache_dir": str(tmp_path / "cache")}
    first = ImageFolder(**settings)
    first.prepare_data()
    (samples,) = (tmp_path / "cache/data").glob("*/samples.npy")
    samples.write_bytes(samples.read_bytes()[:-1])
    second = ImageFolder(**settings)
    second.prepare_data()
    assert "is damaged: the" in caplog.text and "decoded anew" in caplog.text
    for data in (first, second):
        data.setup()
    assert first.fingerprint == second.fingerprint
