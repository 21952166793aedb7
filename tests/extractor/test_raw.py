"""The numbers of a sample as its features."""

import pytest
import torch

from oboro.extractor import Raw
from oboro.metrics.frechet import frechet_distance
from oboro.metrics.statistics import FeatureStatistics
from oboro.modality import Image, Series


def fd(modality, a, b):
    extractor = Raw()
    extractor.accept(modality)
    return frechet_distance(*(FeatureStatistics.from_features(extractor(x)["features"]) for x in (a, b)))


def test_a_shift_costs_its_square_in_standard_deviations_in_any_unit(normal):
    """|v|² for a shift by v; kelvin and hectopascal count by what is usual for each, so their units do not matter."""
    x, shift = normal(200, 2, 8), torch.tensor([0.5, -2.0])[:, None]
    expected = 8 * (0.5**2 + 2.0**2)
    for mean, std in (([0.0, 0.0], [1.0, 1.0]), ([300.0, 1e3], [10.0, 0.5])):
        modality = Series(8, mean, std)
        found = fd(modality, modality.to_stored(x), modality.to_stored(x + shift))
        assert found == pytest.approx(expected, rel=1e-3)


def test_pixels_are_features_in_the_range_of_the_model():
    extractor, modality = Raw(), Image(1, 2, 2)
    extractor.accept(modality)
    pixels = torch.tensor([[[[0, 255], [51, 204]]]], dtype=torch.uint8)
    torch.testing.assert_close(extractor(pixels)["features"], torch.tensor([[-1.0, 1.0, -0.6, 0.6]]))
    with pytest.raises(ValueError, match=r"expected torch\.uint8 1×2×2"):
        extractor(pixels[..., :1])


def test_the_digest_names_the_units():
    digests = set()
    for std in (1.0, 2.0):
        extractor = Raw()
        extractor.accept(Series(8, [0.0], [std]))
        digests.add(extractor.digest)
    assert len(digests) == 2
