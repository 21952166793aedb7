import gzip
import hashlib

import numpy as np
import pytest

from oboro.base.errors import UserError
from oboro.data import FashionMNIST, fashion_mnist
from oboro.data.fashion_mnist import PARTS, IdxFile, Part


def load(tmp_path, **keywords):
    data = FashionMNIST(cache_dir=str(tmp_path / "cache"), validation=0, **keywords)
    data.prepare_data()
    data.setup()
    return data


def test_embedded_images_are_the_published_ones(tmp_path):
    data = load(tmp_path, part="test")
    images = data.train.samples[:].numpy()
    header = bytes([0, 0, 8, 3]) + np.array([10_000, 28, 28], ">u4").tobytes()
    assert hashlib.sha256(header + images.tobytes()).hexdigest() == PARTS["test"].images.sha256
    labels = (
        bytes([0, 0, 8, 1]) + np.array([10_000], ">u4").tobytes() + data.train.labels.numpy().astype("u1").tobytes()
    )
    assert hashlib.sha256(labels).hexdigest() == PARTS["test"].labels.sha256
    assert data.population.frequencies.tolist() == [0.1] * 10


def test_unknown_part_is_refused():
    with pytest.raises(UserError, match=r"set data\.part to one of test, train$"):
        FashionMNIST(part="val")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A training part of six images, without system folder and mirrors; writes its files into a folder."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    contents = {"images.gz": bytes(16) + pixels.tobytes(), "labels.gz": bytes(8) + bytes([9, 0, 3, 1, 2, 5])}
    files = [IdxFile(name, hashlib.sha256(c).hexdigest(), len(c), ("0" * 64, 1)) for name, c in contents.items()]
    monkeypatch.setitem(PARTS, "train", Part(*files, embedded=False))
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setattr(fashion_mnist, "MIRRORS", ())

    def write(folder):
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_bytes(gzip.compress(content))

    return write, pixels


@pytest.mark.parametrize("place", ["root", "system"])
def test_training_files_are_found_and_keep_their_labels(tmp_path, toy, place):
    write, pixels = toy
    write(tmp_path / place)
    data = load(tmp_path, root=str(tmp_path / "root"))
    assert np.array_equal(data.train.samples[:].numpy()[:, 0], pixels)
    assert data.train.labels.tolist() == [9, 0, 3, 1, 2, 5]
    small = load(tmp_path, root=str(tmp_path / "root"), channels=3, resolution=32)
    assert small.train.samples.shape == (6, 3, 32, 32)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: gzip.compress(gzip.decompress(b) + b"!"), lambda b: b"?"]
)
def test_changed_files_are_refused_before_use(tmp_path, toy, damage):
    toy[0](tmp_path / "root")
    path = tmp_path / "root" / "images.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"images\.gz.*; delete it to have it downloaded again$"):
        load(tmp_path, root=str(tmp_path / "root"))
    assert list((tmp_path / "cache" / "data").glob("[!.]*")) == []


def test_without_files_and_network_the_three_places_are_named(tmp_path, toy):
    with pytest.raises(UserError, match=rf"put it into data\.root=<folder>, {tmp_path}/system or {tmp_path}/cache"):
        load(tmp_path)


def test_compression_does_not_matter(tmp_path, toy):
    toy[0](tmp_path / "root")
    path = tmp_path / "root" / "images.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=1))
    assert len(load(tmp_path, root=str(tmp_path / "root")).train.samples) == 6
