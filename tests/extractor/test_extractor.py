import os

import pytest
import torch

from oboro.extractor import Fashion, Inception
from oboro.extractor.extractor import file_digest


@pytest.mark.parametrize("extractor", [Fashion(), Inception(weights_path="nowhere.pth")])
@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(2, 4, 8, 8, dtype=torch.uint8)],
    ids=["float", "no batch", "four channels"],
)
def test_only_uint8_batches_with_one_or_three_channels(extractor, images):
    with pytest.raises(ValueError, match="uint8 images"):
        extractor(images)


@pytest.mark.parametrize("outputs", [["features"], ["logits"], ["logits", "features"]])
def test_rows_are_taken_apart_again(fashion_images, outputs):
    extractor = Fashion()
    expected = extractor(fashion_images[:9], ["features", "logits"])
    found = extractor.split(extractor.rows(fashion_images[:9], outputs), outputs)
    assert list(found) == outputs
    assert all(torch.equal(found[name], expected[name]) for name in outputs)


def test_a_digest_follows_the_file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"a")
    first = file_digest(path)
    assert first == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    path.write_bytes(b"b")
    os.utime(path, ns=(1, 1))
    assert file_digest(path) != first
