"""Simplex noise: its moments, its smoothness, and whose it is."""

import numpy as np
import pytest
import torch

from oboro.loss.noise import G2, Gaussian, Simplex, simplex


def drawn(noise, n: int = 3000, size: int = 16) -> torch.Tensor:
    return noise((n, 1, size, size), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("octaves", [1, 4])
def test_every_place_has_mean_0_and_variance_1(octaves):
    x = drawn(Simplex(octaves, period=16.0))
    error = 5 / len(x) ** 0.5
    assert x.mean(0).abs().max() < error
    assert (x.var(0) - 1).abs().max() < 2 * error
    assert x.var() == pytest.approx(1, abs=0.02)


def test_simplex_noise_is_continuous_and_vanishes_at_lattice_points():
    """At a corner of the lattice the other corners are out of reach, and the own gradient meets a distance of 0."""
    g = torch.Generator().manual_seed(0)
    turns = torch.rand(1, 1, 12, 12, generator=g, dtype=torch.float64)
    i, j = 3, 5  # (i, j) of the lattice lies at (i - (i + j) G2, j - (i + j) G2) = (x, y)
    at = torch.tensor([[[j - (i + j) * G2, i - (i + j) * G2]]], dtype=torch.float64)
    assert simplex((1, 1), 1.0, at, turns).abs().item() < 1e-12
    near = simplex((200, 200), 200.0, at - 0.5, turns)
    assert near.diff(dim=-1).abs().max() < 0.02 * near.abs().max() + 1e-3
    assert near.diff(dim=-2).abs().max() < 0.02 * near.abs().max() + 1e-3


def test_octaves_carry_the_power_of_their_amplitude():
    """Neighbours agree more the longer the period is; white noise not at all."""
    agreement = [float((x[..., 1:] * x[..., :-1]).mean()) for x in map(drawn, (Simplex(1), Simplex(6), Gaussian()))]
    assert agreement[0] > 0.95 > agreement[1] > 0.5 > 0.1 > abs(agreement[2])


def test_a_samples_noise_is_its_own():
    noise = Simplex(period=8.0)
    like = torch.empty(3, 2, 8, 8)
    whole = noise.of_samples(1, [4, 9, 2], like)
    assert torch.equal(noise.of_samples(1, [9], like[:1]), whole[1:2])
    assert not np.allclose(whole[0, 0], whole[0, 1]) and not np.allclose(whole[0], whole[1])
    assert not torch.equal(noise.of_samples(2, [9], like[:1]), whole[1:2])
