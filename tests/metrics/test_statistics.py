import numpy as np
import pytest
import torch

from oboro.metrics import FeatureStatistics


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
