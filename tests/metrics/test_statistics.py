import numpy as np
import pytest
import torch

from oboro.metrics import Extractor, FeatureStatistics, reference_statistics


@pytest.mark.parametrize(("n", "d"), [(2, 5), (20, 20), (21, 20), (9000, 6)])
def test_moments_are_those_of_numpy(n, d, rng):
    x = torch.randn(n, d, generator=rng) @ torch.randn(d, d, generator=rng) + 3
    s = FeatureStatistics.from_features(x)
    np.testing.assert_allclose(s.mean, x.double().numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(s.covariance, np.cov(x.double().numpy(), rowvar=False), atol=1e-12 * d)
    assert s.n == n
    assert s.mean.dtype == s.root.dtype == torch.float64


def test_moments_survive_the_square_root(rng):
    root = torch.randn(30, 12, generator=rng, dtype=torch.float64)
    mean = torch.randn(30, generator=rng, dtype=torch.float64)
    s = FeatureStatistics.from_moments(100, mean, root @ root.T)
    torch.testing.assert_close(s.covariance, root @ root.T, rtol=0, atol=1e-12)
    assert s.root.shape == (30, 12), "directions without variance must not enter as rounding noise"


def test_a_large_mean_does_not_drown_the_covariance(rng):
    """E[x xᵀ] − mu muᵀ in float32 would lose everything here."""
    x = torch.randn(500, 4, generator=rng).round(decimals=3)
    shifted = FeatureStatistics.from_features(x.double() + 1e6)
    torch.testing.assert_close(shifted.covariance, FeatureStatistics.from_features(x).covariance, rtol=0, atol=1e-8)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_features_are_counted_in_the_error(value):
    x = torch.zeros(7, 3)
    x[2, 1] = x[5, 0] = value
    with pytest.raises(ValueError, match="2 of 7"):
        FeatureStatistics.from_features(x)
    with pytest.raises(ValueError, match="NaN or infinity"):
        FeatureStatistics.from_moments(5, torch.tensor([value]), torch.eye(1))


def test_what_is_not_statistics_is_refused():
    with pytest.raises(ValueError, match="n >= 2"):
        FeatureStatistics.from_features(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="n >= 2"):
        FeatureStatistics.from_features(torch.zeros(10))
    with pytest.raises(ValueError, match="do not fit"):
        FeatureStatistics.from_moments(5, torch.zeros(3), torch.eye(2))
    with pytest.raises(ValueError, match="not a covariance"):
        FeatureStatistics.from_moments(5, torch.zeros(2), torch.diag(torch.tensor([1.0, -0.5])))


class Pixels(Extractor):
    """The pixels themselves; counts how many images it has seen."""

    metric_prefix = "fd_pixels"
    dim = 4

    def __init__(self, name="pixels", digest="0", resize="none"):
        self.name, self._digest, self.resize, self.seen = name, digest, resize, 0

    @property
    def digest(self):
        return self._digest

    def prepare(self): ...

    def load(self, device): ...

    def __call__(self, images):
        self.seen += len(images)
        return images.flatten(1).float()


def images(rng, n=50):
    return torch.randint(0, 256, (n, 1, 2, 2), generator=rng, dtype=torch.uint8)


def test_a_reference_is_computed_once_and_read_back_bitwise(tmp_path, rng):
    data, extractor = images(rng), Pixels()
    first = reference_statistics(extractor, data, "f", "train", tmp_path)
    again = reference_statistics(extractor, data, "f", "train", tmp_path)
    assert extractor.seen == 50
    assert torch.equal(first.mean, again.mean) and torch.equal(first.root, again.root) and first.n == again.n == 50


def test_everything_that_changes_the_number_changes_the_key(tmp_path, rng):
    data = images(rng)
    asked = [
        (Pixels(), data, "f", "train"),
        (Pixels(), data, "g", "train"),
        (Pixels(), data, "f", "test"),
        (Pixels(), data[:49], "f", "train"),
        (Pixels(name="other"), data, "f", "train"),
        (Pixels(digest="1"), data, "f", "train"),
        (Pixels(resize="bicubic"), data, "f", "train"),
    ]
    for extractor, *rest in asked:
        reference_statistics(extractor, *rest, tmp_path)
        assert extractor.seen == len(rest[0])
    assert len(list(tmp_path.iterdir())) == len(asked)


def test_the_chunk_size_does_not_change_the_reference(tmp_path, rng):
    data = images(rng)
    a = reference_statistics(Pixels(), data, "f", "train", tmp_path / "a", chunk=7)
    b = reference_statistics(Pixels(), data, "f", "train", tmp_path / "b", chunk=50)
    assert torch.equal(a.mean, b.mean) and torch.equal(a.root, b.root)
