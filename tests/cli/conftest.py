import hashlib
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

import runs
from oboro.data import cifar10


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> runs.Run:
    """Two steps with every callback."""
    return runs.train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def checkpoint(trained, tmp_path_factory) -> Path:
    """The file of ``trained`` with other weights: random, and both averages random and different from them."""
    content = trained.checkpoint()
    task = instantiate(content["config"]["task"], _convert_="all")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        runs.randomise(task)
    content["state_dict"] = task.state_dict()
    content["ema"] = task.ema.state_dict(task.denoiser)
    path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    torch.save(content, path)
    return path


@pytest.fixture
def altered(checkpoint, tmp_path):
    """``altered(change)``: the path of a copy of ``checkpoint`` after ``change(content)``."""

    def altered(change) -> Path:
        content = torch.load(checkpoint, weights_only=True)
        change(content)
        path = tmp_path / "altered.ckpt"
        torch.save(content, path)
        return path

    return altered


@pytest.fixture
def cifar10_root(tmp_path, monkeypatch) -> Path:
    """The five files of CIFAR-10's binary version with eight random images each, known to the module by digest."""
    folder = tmp_path / "cifar10" / cifar10.FOLDER
    folder.mkdir(parents=True)
    digests = {}
    generator = torch.Generator().manual_seed(0)
    for k, name in enumerate(cifar10.FILES):
        records = torch.randint(256, (8, cifar10.RECORD), generator=generator, dtype=torch.uint8)
        records[:, 0] = (torch.arange(8) + 8 * k) % 10
        (folder / name).write_bytes(records.numpy().tobytes())
        digests[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "FILES", digests)
    monkeypatch.setattr(cifar10, "RECORDS", 8)
    monkeypatch.setattr(cifar10, "ARCHIVE_SHA256", digests[name])  # the name of the cache
    return folder.parent
