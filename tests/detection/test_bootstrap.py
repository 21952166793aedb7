from math import sqrt

import numpy as np
import pytest

from oboro.base.seeding import generator
from oboro.detection import AUROC, bootstrap, bootstrap_mean, difference
from oboro.detection.bootstrap import resampled_counts


def mean_of(values):
    return lambda counts: float(np.average(values, weights=counts))


def test_a_resample_has_as_many_of_each_stratum():
    strata = np.array(["good", "scratch", "good", "patch", "good", "scratch"])
    seen = [resampled_counts(strata, generator(0, "bootstrap", k)) for k in range(50)]
    for counts in seen:
        assert {kind: counts[strata == kind].sum() for kind in strata} == {"good": 3, "scratch": 2, "patch": 1}
    assert len({tuple(counts) for counts in seen}) > 20


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    interval = bootstrap(mean_of(values), np.zeros(400), resamples=4000)
    error = values.std() / sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_the_interval_of_an_auroc_has_the_width_of_its_asymptotic_error():
    """Of continuous scores DeLong et al. 1988: the variance is that of the placements of either kind."""
    rng = np.random.default_rng(1)
    anomalous = np.arange(500) < 200
    scores = rng.normal(size=500) + anomalous
    placed = [(scores[anomalous, None] > scores[~anomalous]).mean(axis) for axis in (0, 1)]
    error = sqrt(placed[1].var(ddof=1) / 200 + placed[0].var(ddof=1) / 300)
    interval = bootstrap(AUROC(scores, anomalous), anomalous, resamples=2000)
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(error, rel=0.08)


def test_paired_intervals_forget_what_both_share():
    rng = np.random.default_rng(2)
    anomalous = np.arange(300) < 100
    scores = rng.normal(size=300) + anomalous
    first, second = AUROC(scores, anomalous), AUROC(scores - 0.01 * rng.random(300), anomalous)
    paired, plain = bootstrap(difference(first, second), anomalous), bootstrap(first, anomalous)
    assert paired.value == first() - second()
    assert paired.high - paired.low < 0.2 * (plain.high - plain.low)
    assert bootstrap(difference(first, first), anomalous).high == 0


def test_the_mean_over_test_sets_has_the_error_of_independent_ones():
    sets = [np.random.default_rng(k).normal(size=100) for k in range(10)]
    interval = bootstrap_mean([mean_of(values) for values in sets], [np.zeros(100)] * 10, resamples=1000)
    error = sqrt(sum(values.var() / 100 for values in sets)) / 10
    assert interval.value == pytest.approx(np.mean(sets))
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(error, rel=0.08)


def test_intervals_are_functions_of_the_seed():
    values = np.random.default_rng(3).normal(size=50)
    first, again, other = (bootstrap(mean_of(values), np.zeros(50), resamples=100, seed=s) for s in (0, 0, 1))
    assert first == again != other
