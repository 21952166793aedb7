import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from oboro.metrics import nearest
from oboro.metrics.kernel import kernel_distance, kernel_distance_subsets


def normal(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def k(a, b):
    return (float(a @ b) / len(a) + 1) ** 3


def by_loops(x, y):
    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def without(x, i):
    return torch.cat([x[:i], x[i + 1 :]])


@pytest.mark.parametrize("block", [4, 1024])
def test_value_and_standard_error_equal_the_definition(block, rng, monkeypatch):
    """The estimate by loops over pairs; the jackknife by leaving out every sample in turn and starting again."""
    monkeypatch.setattr(nearest, "BLOCK", block)
    x, y = normal(rng, 9, 3) + 0.5, 1.3 * normal(rng, 7, 3)
    found = kernel_distance(x, y)
    assert found.value == pytest.approx(by_loops(x, y), rel=1e-12)
    of_x = np.array([by_loops(without(x, i), y) for i in range(9)])
    of_y = np.array([by_loops(x, without(y, i)) for i in range(7)])
    variance = 8 / 9 * np.square(of_x - of_x.mean()).sum() + 6 / 7 * np.square(of_y - of_y.mean()).sum()
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-11)
    assert found.copied == 0
    assert found.interval == pytest.approx((found.value - 1.96 * variance**0.5, found.value + 1.96 * variance**0.5))


def test_symmetric_and_blind_to_order_and_rotation(rng):
    x, y = normal(rng, 40, 6) + 0.3, normal(rng, 30, 6)
    a, b = kernel_distance(x, y), kernel_distance(y, x)
    assert (b.value, b.standard_error) == pytest.approx((a.value, a.standard_error), rel=1e-10)
    q = torch.linalg.qr(normal(rng, 6, 6))[0]
    c = kernel_distance((x @ q)[torch.randperm(40, generator=rng)], y @ q)
    assert (c.value, c.standard_error) == pytest.approx((a.value, a.standard_error), rel=1e-10)


def test_unbiased_where_the_plug_in_estimate_is_not(rng):
    """Equal distributions: the mean over draws is 0; with the diagonal, E = (E k(x, x) − E k(x, x')) (1/n + 1/m)."""
    draws = [(normal(rng, 20, 4), normal(rng, 30, 4)) for _ in range(400)]
    values = np.array([kernel_distance(x, y).value for x, y in draws])
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean()) < 3 * error

    def plug_in(x, y):
        xx, yy, xy = ((a @ b.T / 4 + 1).pow(3).mean().item() for a, b in ((x, x), (y, y), (x, y)))
        return xx + yy - 2 * xy

    assert np.mean([plug_in(x, y) for x, y in draws]) > 20 * error


def third_moments(mean, covariance):
    """E[X], E[X Xᵀ] and E[X ⊗ X ⊗ X] of a Gaussian."""
    second = covariance + torch.outer(mean, mean)
    mixed = torch.einsum("i,jk->ijk", mean, covariance)
    third = torch.einsum("i,j,k->ijk", mean, mean, mean) + mixed + mixed.permute(1, 0, 2) + mixed.permute(2, 1, 0)
    return mean, second, third


def true_distance(p, q):
    """(s/d + 1)³ expands into powers of s = x·y, whose means are products of moments: a distance of moments."""
    d = len(p[0])
    return sum(
        weight / d**power * (a - b).square().sum().item()
        for power, weight, a, b in zip((1, 2, 3), (3, 3, 1), p, q, strict=True)
    )


def test_the_interval_covers_the_true_value(rng):
    """Two Gaussians, n = 100 and m = 150: 95 % of the intervals contain the distance of their moments."""
    d, repetitions = 5, 300
    root, mean = torch.eye(d).double() + 0.3 * normal(rng, d, d), 0.4 * normal(rng, d)
    truth = true_distance(
        third_moments(torch.zeros(d).double(), torch.eye(d).double()), third_moments(mean, root @ root.T)
    )
    found = [kernel_distance(normal(rng, 100, d), normal(rng, 150, d) @ root.T + mean) for _ in range(repetitions)]
    covered = np.mean([f.interval[0] <= truth <= f.interval[1] for f in found])
    assert 0.90 < covered < 0.99
    values = np.array([f.value for f in found])
    assert abs(values.mean() - truth) < 3 * values.std() / math.sqrt(repetitions)
    assert np.mean([f.standard_error for f in found]) == pytest.approx(values.std(), rel=0.15)


def test_equal_distributions_are_not_told_apart(rng):
    """Degenerate case: the standard error is too large by about sqrt(2), so the interval holds 0 more often."""
    found = [kernel_distance(normal(rng, 60, 5), normal(rng, 60, 5)) for _ in range(200)]
    assert np.mean([f.interval[0] <= 0 <= f.interval[1] for f in found]) > 0.95
    ratio = np.mean([f.standard_error**2 for f in found]) / np.var([f.value for f in found])
    assert 1.5 < ratio < 2.7


def copies(rng, n, m, d, likeness, share=1.0):
    """Draws of one normal distribution, of which a share are correlated with a row of the other set."""
    x, y = normal(rng, n, d), normal(rng, m, d)
    k = int(share * min(n, m))
    x[:k] = likeness * y[:k] + math.sqrt(1 - likeness**2) * x[:k]
    return x[torch.randperm(n, generator=rng)], y


@pytest.mark.slow
def test_the_interval_of_copies_covers_the_true_value(rng):
    """Equal distributions, distance 0: 95 % of the intervals or more hold 0, whatever the samples have in common."""
    sizes = ((60, 60), (40, 120), (120, 40))
    kinds = ((1.0, 1.0), (0.95, 1.0), (0.8, 1.0), (0.5, 1.0), (0.0, 1.0), (1.0, 0.5), (1.0, 0.2))
    for d in (5, 32):
        for n, m in sizes:
            for likeness, share in kinds:
                found = [kernel_distance(*copies(rng, n, m, d, likeness, share)).interval for _ in range(40)]
                covered = np.mean([low <= 0 <= high for low, high in found])
                assert covered >= 0.9, (d, n, m, likeness, share, covered)
    x = normal(rng, 50, 8)
    same = kernel_distance(x, x)
    assert same.value < 0 < same.interval[1], "the statistic of a set and itself is negative"


def test_the_interval_of_noisy_copies_covers_a_distance_above_zero(rng):
    """x = y + 0.3 z is of another distribution: the estimate is too low by more than its standard error."""
    for d, n, m in ((5, 60, 60), (32, 60, 60), (32, 60, 200)):
        standard = third_moments(torch.zeros(d).double(), torch.eye(d).double())
        truth = true_distance(standard, third_moments(torch.zeros(d).double(), 1.09 * torch.eye(d).double()))
        found = []
        for _ in range(60):
            y = normal(rng, m, d)
            found.append(kernel_distance(y[:n] + 0.3 * normal(rng, n, d), y))
        assert truth > 0 and np.mean([f.interval[0] <= truth <= f.interval[1] for f in found]) > 0.9
        assert np.mean([f.value + 1.96 * f.standard_error < truth for f in found]) > 0.15, "without the correction"


def test_independent_samples_keep_their_interval(rng):
    """More than chance has to be close before anything is corrected."""
    kept = []
    for d, shift in ((5, 0.0), (32, 0.0), (32, 0.3), (128, 0.1)):
        kept += [kernel_distance(normal(rng, 80, d) + shift, normal(rng, 120, d)).copied == 0 for _ in range(50)]
    assert np.mean(kept) > 0.9


def test_a_shift_increases_it(rng):
    x, y = normal(rng, 300, 8), normal(rng, 300, 8)
    values = [kernel_distance(x + shift, y).value for shift in (0, 0.2, 0.5, 1.0)]
    assert values == sorted(values)
    assert kernel_distance(x + 1, y).interval[0] > 0


@pytest.mark.parametrize("seed", [2020, 7])
def test_subsets_are_those_of_torch_fidelity(seed, rng):
    x, y = normal(rng, 150, 12) + 0.2, normal(rng, 130, 12)
    theirs = kid_features_to_metric(x, y, kid_subsets=10, kid_subset_size=60, rng_seed=seed, verbose=False)
    mean, std = kernel_distance_subsets(x, y, subsets=10, size=60, seed=seed)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)


def test_the_spread_of_subsets_is_not_the_error_of_the_mean(rng):
    """It stays where it is when n grows tenfold, and the standard error of all samples falls below a third of it."""
    sets = [(normal(rng, n, 6) + 0.5, normal(rng, n, 6)) for n in (200, 2000)]
    spread = [kernel_distance_subsets(x, y, 50, 100)[1] for x, y in sets]
    error = [kernel_distance(x, y).standard_error for x, y in sets]
    assert 0.6 < spread[1] / spread[0] < 2
    assert error[1] < 0.4 * error[0]
    assert error[1] < spread[1] / 3


def test_a_subset_of_everything_is_the_estimate_of_all_samples(rng):
    x, y = normal(rng, 50, 6) + 0.5, normal(rng, 50, 6)
    mean, std = kernel_distance_subsets(x, y, subsets=3, size=50)
    assert mean == pytest.approx(kernel_distance(x, y).value, rel=1e-12)
    assert std < 1e-12


def test_float32_features_are_summed_in_float64(rng):
    """Features with a large mean: in float32 the three means of 10⁶ leave nothing of their difference."""
    x, y = (100 + normal(rng, 200, 64)).float(), (100 + normal(rng, 200, 64)).float()
    exact = kernel_distance(x.double(), y.double())
    assert kernel_distance(x, y) == exact
    assert kernel_distance_subsets(x, y, 5, 50) == kernel_distance_subsets(x.double(), y.double(), 5, 50)


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="three samples"):
        kernel_distance(torch.zeros(2, 3), torch.zeros(9, 3))
    with pytest.raises(ValueError, match="subsets of 10"):
        kernel_distance_subsets(torch.zeros(20, 3), torch.zeros(9, 3), size=10)


def test_bad_features_are_counted_in_the_error():
    bad = torch.zeros(20, 3)
    bad[4, 1] = torch.inf
    for distance in (kernel_distance, kernel_distance_subsets):
        with pytest.raises(ValueError, match="1 of 29"):
            distance(bad, torch.zeros(9, 3))
