import os

import pytest
import torch

from oboro.metrics import Fashion, Inception, extract
from oboro.metrics.extractor import file_digest


@pytest.mark.parametrize("extractor", [Fashion(), Inception(weights_path="nowhere.pth")])
@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(2, 4, 8, 8, dtype=torch.uint8)],
    ids=["float", "no batch", "four channels"],
)
def test_only_uint8_batches_with_one_or_three_channels(extractor, images):
    with pytest.raises(ValueError, match="uint8 images"):
        extractor(images)


def test_extraction_does_not_depend_on_the_chunks(fashion_images):
    images, done = fashion_images[:103], []
    whole = Fashion()(images)
    for chunk in (1, 25, 103, 1000):
        torch.testing.assert_close(extract(Fashion(), images, chunk), whole, rtol=0, atol=1e-4)
    extract(Fashion(), images, 25, progress=lambda i, n: done.append((i, n)))
    assert done == [(25, 103), (50, 103), (75, 103), (100, 103), (103, 103)]


def test_a_digest_follows_the_file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"a")
    first = file_digest(path)
    assert first == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    path.write_bytes(b"b")
    os.utime(path, ns=(1, 1))
    assert file_digest(path) != first
