import hashlib
import io
import tarfile

import numpy as np
import pytest

from oboro.base.errors import UserError
from oboro.data import CIFAR10, cifar10

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
LABELS = np.arange(20) % 10
RECORDS = np.concatenate([LABELS.astype(np.uint8)[:, None], IMAGES.reshape(20, -1)], axis=1).reshape(5, 4, -1)
NAMES = [f"data_batch_{i}.bin" for i in range(1, 6)]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An archive of five files of four images, known to the module by its digests."""
    (tmp_path / "root").mkdir()
    with tarfile.open(tmp_path / "root" / cifar10.ARCHIVE, "w:gz") as tar:
        for name, records in zip(NAMES, RECORDS, strict=True):
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            member.size = records.nbytes
            tar.addfile(member, io.BytesIO(records.tobytes()))
    digest = hashlib.sha256((tmp_path / "root" / cifar10.ARCHIVE).read_bytes()).hexdigest()
    files = {n: hashlib.sha256(r.tobytes()).hexdigest() for n, r in zip(NAMES, RECORDS, strict=True)}
    monkeypatch.setattr(cifar10, "ARCHIVE_SHA256", digest)
    monkeypatch.setattr(cifar10, "FILES", files)
    monkeypatch.setattr(cifar10, "RECORDS", 4)
    return tmp_path / "root"


def extract(root):
    (root / cifar10.FOLDER).mkdir()
    for name, records in zip(NAMES, RECORDS, strict=True):
        (root / cifar10.FOLDER / name).write_bytes(records.tobytes())
    (root / cifar10.ARCHIVE).unlink()


def load(root, **keywords):
    data = CIFAR10(root=str(root), cache_dir=str(root / "cache"), **{"validation": 0, **keywords})
    data.prepare_data()
    data.setup()
    return data


def test_archive_and_extracted_files_hold_the_same_images(root):
    archived = load(root)
    assert np.array_equal(archived.train.samples[:].numpy(), IMAGES)
    assert archived.train.labels.tolist() == LABELS.tolist()
    extract(root)
    extracted = CIFAR10(root=str(root), cache_dir=str(root / "other"), validation=0)
    extracted.prepare_data()
    extracted.setup()
    assert extracted.fingerprint == archived.fingerprint


def test_another_archive_is_refused(root):
    (root / cifar10.ARCHIVE).write_bytes((root / cifar10.ARCHIVE).read_bytes() + b"!")
    with pytest.raises(UserError, match="not the published CIFAR-10 archive; delete it"):
        load(root)


def test_changed_and_missing_extracted_files_are_refused(root):
    extract(root)
    path = root / cifar10.FOLDER / NAMES[2]
    path.write_bytes(RECORDS[2].tobytes()[:-1] + b"!")
    with pytest.raises(UserError, match=r"data_batch_3\.bin is not the CIFAR-10 file of that name; delete"):
        load(root)
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*data_batch_3\.bin: No such file.*; delete"):
        load(root)


def test_without_files_and_network_the_places_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/archive")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match=rf"put it into data\.root=<folder> or {tmp_path}/cache/downloads$"):
        load(tmp_path)
