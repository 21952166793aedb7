import math

import numpy as np
import pytest
import scipy.special
import torch

from oboro.metrics.memorization import audit
from oboro.metrics.nearest import radii


def normal(rng, *shape):
    return torch.randn(*shape, generator=rng)


def by_loops(generated, training):
    g, t = generated.double().tolist(), training.double().tolist()
    own = [min(math.dist(a, b) for j, b in enumerate(t) if j != i) for i, a in enumerate(t)]
    authentic, ratios, neighbours = [], [], []
    for p in g:
        (d1, i), (d2, _) = sorted((math.dist(p, b), j) for j, b in enumerate(t))[:2]
        authentic.append(d1 > own[i])
        ratios.append(d1 / d2 if d1 > 0 else 0.0)
        neighbours.append(i)
    close = sorted(own)[math.ceil(len(t) / 100) - 1]
    twice = [any(math.dist(a, b) <= close for j, b in enumerate(g) if j != i) for i, a in enumerate(g)]
    return np.mean(authentic), ratios, np.mean(twice), neighbours


@pytest.mark.parametrize(("n", "m", "d"), [(60, 150, 2), (90, 40, 3), (50, 100, 1)])
def test_equal_to_the_definitions(n, m, d, rng):
    generated, training = normal(rng, n, d), normal(rng, m, d)
    generated[::5] = training[: len(generated[::5])] + 0.01 * normal(rng, len(generated[::5]), d)
    generated[1] = training[7]
    generated[2] = generated[3] + 1e-5
    authenticity, ratios, duplicates, neighbours = by_loops(generated, training)
    found = audit(generated, training)
    assert found.authenticity == pytest.approx(authenticity, abs=1e-14)
    torch.testing.assert_close(found.distance_ratio, torch.tensor(ratios, dtype=torch.float64), rtol=1e-12, atol=0)
    assert found.copied == pytest.approx(np.mean(np.array(ratios) < 1 / 3), abs=1e-14)
    assert found.median_ratio == pytest.approx(np.median(ratios), rel=1e-12)
    assert found.duplicates == pytest.approx(duplicates, abs=1e-14)
    assert 0 < found.duplicates < 1 and 0 < found.copied < 1, "a case that can tell"
    assert found.closest.generated.tolist() == np.argsort(ratios, kind="stable").tolist()
    assert found.closest.training.tolist() == [neighbours[i] for i in found.closest.generated.tolist()]
    assert torch.equal(found.closest.ratio, found.distance_ratio.sort().values)


def test_exact_copies_are_found(rng):
    training = normal(rng, 300, 10) + 50
    chosen = torch.randperm(300, generator=rng)[:100]
    found = audit(training[chosen], training)
    assert (found.authenticity, found.copied, found.median_ratio) == (0, 1, 0)
    assert torch.equal(found.closest.training, chosen[found.closest.generated])


def test_noisy_copies_are_found_among_fresh_draws(rng):
    """30 of 200 are training samples with a tenth of noise in 20 dimensions: they come first, with their originals."""
    training, fresh = normal(rng, 500, 20), normal(rng, 170, 20)
    generated = torch.cat([fresh, training[100:130] + 0.1 * normal(rng, 30, 20)])
    found = audit(generated, training)
    assert found.copied == 30 / 200
    assert (found.distance_ratio[170:] < 1 / 3).all()
    first = found.closest.generated[:30]
    assert sorted(first.tolist()) == list(range(170, 200))
    assert torch.equal(found.closest.training[:30], first - 70)
    alone = audit(generated[170:], training)
    assert (alone.authenticity, alone.copied) == (0, 1)


def mean_and_error(values):
    return np.mean(values), np.std(values) / math.sqrt(len(values))


@pytest.mark.parametrize("d", [1, 2])
def test_fresh_draws_in_closed_form(d, rng):
    """Near a sample the density is constant, which makes three numbers the same for all distributions.

    A fresh draw counts as authentic unless it and its neighbour are nearest to each other among all m + 1 points, which
    has probability 1 / (2 − I), with I the share of a unit ball inside another one around a point of its surface.
    The volumes of the balls that reach to the two nearest samples have a uniform ratio, so P(d1/d2 < r) = r^d.
    """
    overlap = scipy.special.betainc((d + 1) / 2, 0.5, 0.75)  # 1/2 and 0.391
    found = [audit(normal(rng, 200, d), normal(rng, 400, d)) for _ in range(30)]
    for values, expected in (
        ([f.authenticity for f in found], 1 - 1 / (2 - overlap)),
        ([f.copied for f in found], 3.0**-d),
        ([f.median_ratio for f in found], 2 ** (-1 / d)),
    ):
        mean, error = mean_and_error(values)
        assert error < 0.01
        assert abs(mean - expected) < 3 * error + 0.005  # 0.005: the density is not quite constant


def test_authenticity_of_fresh_draws_is_the_share_that_is_not_mutually_nearest(rng):
    """Any distribution and any m: a fresh draw is one of m + 1 exchangeable points. In 20 dimensions that is 0.69."""
    m, d = 300, 20
    fresh = [audit(normal(rng, 300, d), normal(rng, m, d)).authenticity for _ in range(30)]
    mutual = []
    for _ in range(60):
        x = normal(rng, m + 1, d)
        neighbour = torch.cdist(x, x).fill_diagonal_(torch.inf).argmin(1)
        mutual.append((neighbour[neighbour] == torch.arange(m + 1)).double().mean().item())
    (a, error), (b, other) = mean_and_error(fresh), mean_and_error(mutual)
    assert error < 0.01
    assert abs(a - (1 - b)) < 3 * math.hypot(error, other)
    assert a > 0.6, "far from one half: few samples are the nearest neighbours of many"


def test_fresh_draws_in_many_dimensions_are_no_copies(rng):
    found = audit(normal(rng, 1000, 20), normal(rng, 1000, 20))
    assert found.copied == 0
    assert found.median_ratio > 0.9
    assert found.duplicates < 0.03


def test_duplicates_are_calibrated_on_the_training_set(rng):
    """Fresh draws: 1 % where they are as many as training samples, four times that where four times as many."""
    for n, m in ((500, 500), (1200, 300)):
        mean, error = mean_and_error([audit(normal(rng, n, 3), normal(rng, m, 3)).duplicates for _ in range(80)])
        assert error < 0.2 * 0.01 * n / m
        assert mean == pytest.approx(0.01 * n / m, abs=3 * error)
    training, fresh = normal(rng, 500, 3), normal(rng, 100, 3)
    assert audit(fresh.repeat(2, 1), training).duplicates == 1
    assert audit(fresh[:1].repeat(50, 1), training).duplicates == 1
    assert audit(fresh[:1].repeat(50, 1), training.repeat(2, 1)).duplicates == 1, "also with a radius of 0"


def test_the_closest_percent_of_the_training_set_says_what_a_duplicate_is():
    """200 training samples in pairs 1, 2, 3, ... apart: the closest two are 1 apart, so pairs 0.9 or 1 apart count."""
    places = 1000.0 * torch.arange(100)
    lower = torch.stack([places, torch.zeros(100)], 1)
    training = torch.cat([lower, lower + torch.stack([torch.zeros(100), torch.arange(1.0, 101)], 1)])
    generated = lower[:5].repeat(2, 1)
    generated[5:, 1] = torch.tensor([0.9, 1.0, 1.1, 2.0, 3.0])
    assert audit(generated, training).duplicates == 4 / 10


def test_a_sample_between_two_training_samples_is_none_of_them():
    training = torch.tensor([[0.0], [1.0], [5.0], [5.5]])
    found = audit(torch.tensor([[0.5], [0.2], [5.25], [9.0]]), training)
    assert found.distance_ratio.tolist() == pytest.approx([1, 0.25, 1, 3.5 / 4])
    assert found.copied == 0.25
    assert found.authenticity == 0.25, "only 9 is farther from its neighbour than that one from its own"


def test_a_copy_of_a_sample_that_is_there_twice_has_ratio_zero():
    training = torch.tensor([[0.0, 1], [0, 1], [3, 3], [4, 4]])
    found = audit(torch.tensor([[0.0, 1], [3.5, 3.4]]), training)
    assert found.distance_ratio[0] == 0
    assert found.closest.generated[0] == 0
    assert found.copied == 0.5


def test_kept_radii_change_nothing(rng):
    generated, training = normal(rng, 50, 4), normal(rng, 80, 4)
    kept = radii(training, 1)
    a, b = audit(generated, training), audit(generated, training, kept)
    assert (a.authenticity, a.duplicates) == (b.authenticity, b.duplicates)
    assert audit(generated, training, 0 * kept).authenticity == 1, "they are used"
    with pytest.raises(ValueError, match="80 training samples"):
        audit(generated, training, kept[1:])


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="two samples"):
        audit(torch.zeros(1, 2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="two samples"):
        audit(torch.zeros(5, 2), torch.zeros(1, 2))
