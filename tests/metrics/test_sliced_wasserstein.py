import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from oboro.metrics.sliced_wasserstein import directions, sliced_wasserstein


def normal(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def test_equal_counts_on_a_line_are_sorted_and_compared(rng):
    """d = 1: every direction is ±1, so the value is 3 times the mean squared difference of order statistics."""
    x, y = normal(rng, 50, 1), 2 * normal(rng, 50, 1) + 1
    expected = 3 * (x.sort(0).values - y.sort(0).values).square().mean().item()
    assert sliced_wasserstein(x, y, projections=3) == pytest.approx(expected, rel=1e-12)


def optimal_transport(x, y):
    """Squared W2 of two empirical measures on a line, as the linear programme over all plans."""
    n, m = len(x), len(y)
    cost = np.square(np.subtract.outer(x, y))
    sums = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return linprog(cost.ravel(), A_eq=sums, b_eq=masses).fun


@pytest.mark.parametrize(("n", "m"), [(7, 5), (5, 7), (6, 4), (1, 8), (9, 3), (6, 6)])
def test_unequal_counts_on_a_line_are_optimal_transport(n, m, rng):
    x, y = normal(rng, n, 1), normal(rng, m, 1) + 0.5
    expected = optimal_transport(x[:, 0].numpy(), y[:, 0].numpy())
    assert sliced_wasserstein(x, y, projections=2) == pytest.approx(3 * expected, rel=1e-8)


def test_the_definition_of_the_monge_inception_distance(rng):
    """alpha / (n M) sum over M directions and n ranks of |sort(u·x) − sort(u·y)|², alpha = 3 d (arXiv:2605.06797)."""
    n, d, projections = 40, 6, 100
    x, y = normal(rng, n, d).numpy(), (1.5 * normal(rng, n, d) + 0.3).numpy()
    total = 0.0
    for u in directions(d, projections, seed=3).numpy():
        total += np.square(np.sort(x @ u) - np.sort(y @ u)).sum()
    found = sliced_wasserstein(torch.from_numpy(x), torch.from_numpy(y), projections, seed=3)
    assert found == pytest.approx(3 * d * total / (n * projections), rel=1e-12)


def test_directions_are_uniform_on_the_sphere():
    """Unit length, mean 0, E u uᵀ = I/d, and fourth moments of a sphere, E u1⁴ = 3 / (d (d + 2)), not of a cube."""
    d, projections = 4, 20000
    u = directions(d, projections, seed=1)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(projections, dtype=torch.float64))
    assert u.mean(0).abs().max() < 4 / math.sqrt(d * projections)
    torch.testing.assert_close(u.T @ u / projections, torch.eye(d).double() / d, rtol=0, atol=4 * 0.25 / 141)
    torch.testing.assert_close(u.pow(4).mean(0), torch.full((d,), 3 / (d * (d + 2))).double(), rtol=0.04, atol=0)


def test_a_shift_costs_three_times_its_square(rng):
    """Exactly 3 d mean (u·v)², and within sqrt(2 / projections) of 3 |v|². Nothing else about the samples matters."""
    x, v = normal(rng, 60, 10), normal(rng, 10)
    found = sliced_wasserstein(x + v, x, projections=4000)
    size = 3 * v.square().sum().item()
    assert found == pytest.approx(30 * (directions(10, 4000, 0) @ v).square().mean().item(), rel=1e-10)
    assert found == pytest.approx(size, rel=4 * math.sqrt(2 / 4000))


def test_a_scale_costs_three_times_the_second_moment(rng):
    """W2²(u·x, u·cx) = (c − 1)² E (u·x)²; summed over an orthonormal basis this is (c − 1)² E |x|²."""
    x = normal(rng, 60, 10) + 1
    second = x.square().sum(1).mean().item()
    assert sliced_wasserstein(1.5 * x, x, 4000) == pytest.approx(3 * 0.25 * second, rel=4 * math.sqrt(2 / 4000))


def test_two_isotropic_gaussians(rng):
    """W2² of their projections is (u·(a − b))² + (s − t)²: the value is 3 |a − b|² + 3 d (s − t)²."""
    d, n, mean = 4, 4000, torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    found = sliced_wasserstein(normal(rng, n, d) + mean, 2 * normal(rng, n - 1000, d), projections=1000)
    expected = 3 * mean.square().sum().item() + 3 * d
    assert found == pytest.approx(expected, rel=0.08)


def test_a_metric_without_its_root(rng):
    """Zero on itself, symmetric, blind to order and to repetition of all samples; its root obeys the triangle."""
    x, y, z = normal(rng, 30, 5), normal(rng, 20, 5) + 1, 2 * normal(rng, 25, 5)
    assert sliced_wasserstein(x, x.flip(0), 50) == pytest.approx(0, abs=1e-28)
    assert sliced_wasserstein(x, x.repeat(3, 1), 50) == pytest.approx(0, abs=1e-28)
    xy, yz, xz = (sliced_wasserstein(a, b, 50) for a, b in ((x, y), (y, z), (x, z)))
    assert sliced_wasserstein(y, x, 50) == pytest.approx(xy, rel=1e-12)
    assert math.sqrt(xz) <= math.sqrt(xy) + math.sqrt(yz)


def test_the_floor_falls_with_the_number_of_samples(rng):
    """Equal distributions: E = O(1/n) up to a logarithm, positive."""
    floors = [
        np.mean([sliced_wasserstein(normal(rng, n, 4), normal(rng, n, 4), 50) for _ in range(10)]) for n in (100, 1000)
    ]
    assert 5 < floors[0] / floors[1] < 12


def test_a_function_of_its_seed(rng):
    x, y = normal(rng, 30, 5), normal(rng, 20, 5) + 1
    state = torch.get_rng_state()
    assert sliced_wasserstein(x, y, 20, 1) == sliced_wasserstein(x, y, 20, 1) != sliced_wasserstein(x, y, 20, 2)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is not touched"


def test_what_has_no_answer_is_refused():
    with pytest.raises(ValueError, match="1 of 5"):
        sliced_wasserstein(torch.zeros(3, 2), torch.tensor([[0.0, 1], [torch.nan, 1]]))
    with pytest.raises(ValueError, match="projections"):
        sliced_wasserstein(torch.zeros(3, 2), torch.zeros(3, 2), projections=0)
