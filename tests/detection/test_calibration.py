"""What is made of maps: numbers, standardised scores, decisions."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from oboro.detection import Calibration, Pooling


def normals(n: int = 400) -> torch.Tensor:
    """Two measurements of very different size."""
    maps = torch.rand(n, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    return maps * torch.tensor([1.0, 100.0]).view(1, 2, 1, 1)


@pytest.mark.parametrize("score", ["mean", "max", "top"])
def test_scores_of_validation_normals_are_standardised_and_measurements_weigh_the_same(score):
    maps = normals()
    known = Calibration.of(maps, Pooling(score, 0.1), 0.95)
    numbers = Pooling(score, 0.1).numbers(maps).double()
    z = (numbers - numbers.mean(0)) / numbers.std(0)
    assert known.scores(maps).sub(z.mean(1)).abs().max() < 1e-9
    scaled = maps * torch.tensor([1000.0, 1.0]).view(1, 2, 1, 1)
    other = Calibration.of(scaled, Pooling(score, 0.1), 0.95)
    assert other.scores(scaled).sub(known.scores(maps)).abs().max() < 1e-4


def test_the_share_of_normals_is_accepted_and_one_less_is_not():
    known, maps = Calibration.of(normals(), Pooling(), 0.95), normals()
    scores = known.scores(maps)
    assert int((scores <= known.threshold).sum()) == 380
    assert (scores == known.threshold).any()


def test_pooling():
    maps = torch.arange(20.0).view(1, 1, 4, 5)
    assert Pooling("max").numbers(maps).item() == 19
    assert Pooling("mean").numbers(maps).item() == 9.5
    assert Pooling("top", 0.1).numbers(maps).item() == 18.5
    assert Pooling("top", 0.001).numbers(maps).item() == 19
    numbers = torch.tensor([[3.0]])
    assert torch.equal(Pooling("max").numbers(numbers), numbers)
    smooth = Pooling(smoothing=1.2).smoothed(maps)
    assert np.abs(smooth[0, 0].numpy() - gaussian_filter(maps[0, 0].numpy(), 1.2, mode="reflect")).max() < 1e-6


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2, 5)])
def test_measurements_become_one_between_their_mean_and_their_largest(shape):
    """tau log mean exp(z / tau): z itself of one, the mean for large tau, the largest for small ones."""
    z = 5 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(Pooling().joined(z), z.mean(1))
    assert Pooling(temperature=2.0).joined(z).sub(2 * (z / 2).exp().mean(1).log()).abs().max() < 1e-12
    assert Pooling(temperature=2.0).joined(z[:, :1]).sub(z[:, 0]).abs().max() < 1e-12
    assert Pooling(temperature=1e-9).joined(z).sub(z.amax(1)).abs().max() < 1e-7
    assert Pooling(temperature=1e7).joined(z).sub(z.mean(1)).abs().max() < 1e-5


def test_a_map_is_0_where_places_are_as_they_are_of_normals_and_rises_where_one_is_not():
    maps = normals()
    known = Calibration.of(maps, Pooling(), 0.99)
    places = known.map(maps)
    assert places.mean().abs() < 1e-4
    assert float((places > known.place_threshold).double().mean()) == pytest.approx(0.001, abs=2e-4)
    odd = maps[:1].clone()
    odd[0, 1, 2, 3] += 500
    assert known.map(odd).flatten().argmax() == 2 * 6 + 3
    assert Calibration.of(maps.mean((2, 3)), Pooling(), 0.99).map(maps.mean((2, 3))) is None


def test_measurements_without_spread_say_nothing_instead_of_nan():
    maps = torch.ones(10, 1, 3, 3)
    known = Calibration.of(maps, Pooling(), 0.99)
    assert torch.equal(known.scores(maps), torch.zeros(10, dtype=torch.float64))


def test_it_comes_back_from_plain_values():
    known = Calibration.of(normals(), Pooling("top", 0.2, 1.0, 1.5), 0.9)
    assert Calibration.restored(known.plain()) == known
