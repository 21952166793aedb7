"""F25, F28, F29, F33: what happens to data, their loaders and their caches while a run reads them."""

import resource
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import processes
import pytest
from PIL import Image

import runs
from oboro.base.errors import UserError
from oboro.data import ImageFolder
from oboro.data.cache import Mapped, open_cached

WORKERS = (runs.NO_EVALUATION, "data.num_workers=1", "trainer.max_steps=50")


def pictures(folder: Path, n: int) -> Path:
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("L", (8, 8), 10 * i).save(folder / f"{i}.png")
    return folder


@contextmanager
def disk(room: int):
    """No file may become larger than ``room`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "rank"), [(1, 0), (2, 1)])
def test_a_loader_that_is_killed_ends_the_run_with_a_remedy(devices, rank, tmp_path):
    fault = f"+callbacks.fault={{_target_: injection.Fault, does: kill_worker, step: 3, rank: {rank}}}"
    run = processes.train(tmp_path, *WORKERS, f"trainer.devices={devices}", fault)
    assert run.status != 0 and not run.orphans and run.seconds_after_fault < 10
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
    first, second = (process.communicate(timeout=60)[0] for process in both)
    assert first == second and first.split()[1:] == ["24", str(64 * 64 * 50)]
    (folder,) = (path for path in (tmp_path / "cache/data").iterdir() if path.name != ".lock")
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
