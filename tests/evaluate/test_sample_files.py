"""Samples that another program made are measured as they are, or not at all."""

import numpy as np
import PIL.Image
import pytest
import torch

from oboro.base.errors import UserError
from oboro.evaluate.sample_files import read_samples
from oboro.modality import Image

IMAGE = Image(3, 6, 8)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 6, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(pixels, tmp_path):
    """Two class folders with six pictures each."""
    for i, image in enumerate(pixels):
        path = tmp_path / "pictures" / f"class{i // 6}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image).save(path)
    return tmp_path / "pictures"


def test_a_folder_and_an_archive_of_the_same_images_are_the_same(folder, pixels, tmp_path):
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.arange(12) // 6)
    np.savez(tmp_path / "adm.npz", pixels, np.arange(12) // 6)  # arr_0, arr_1
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    found = [read_samples(p, IMAGE, 2) for p in (folder, tmp_path / "images.npz", tmp_path / "adm.npz")]
    for images, labels, fingerprint in found:
        assert torch.equal(images, expected) and labels.tolist() == [0] * 6 + [1] * 6
        assert fingerprint == found[0][2]
    np.savez(tmp_path / "other.npz", images=pixels[::-1])
    _, labels, other = read_samples(tmp_path / "other.npz", IMAGE, 2)
    assert labels is None and other != found[0][2]


def test_nothing_is_resized(folder, pixels, tmp_path):
    np.savez(tmp_path / "images.npz", images=pixels)
    for path in (folder, tmp_path / "images.npz"):
        with pytest.raises(UserError, match=r"data\.resolution"):
            read_samples(path, Image(3, 8, 8), 2)
    with pytest.raises(UserError, match="3×6×8 and those of the data 1×6×8"):
        read_samples(tmp_path / "images.npz", Image(1, 6, 8), 2)


def test_what_holds_no_images_is_refused(pixels, tmp_path):
    np.savez(tmp_path / "floats.npz", images=pixels / 255)
    np.savez(tmp_path / "objects.npz", images=np.array([{}], dtype=object))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "floats.npz").read_bytes()[:99])
    cases = {"floats.npz": "has no images", "objects.npz": "cannot be read", "cut.npz": "cannot be read", "x": "folder"}
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            read_samples(tmp_path / name, IMAGE, 0)
