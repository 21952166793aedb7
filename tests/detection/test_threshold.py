import numpy as np
import pytest
import sklearn.metrics

from oboro.detection import F1, FalsePositiveRate, Recall, f1, false_positive_rate, recall, threshold


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("n", [1, 7, 99, 100, 101, 1000])
def test_the_threshold_is_the_smallest_score_that_enough_normals_do_not_exceed(share, n):
    scores = np.random.default_rng(n).normal(size=n).round(1)  # with ties
    fixed = threshold(scores, share)
    assert fixed in scores and (scores <= fixed).mean() >= share - 1e-12
    assert not any((scores <= s).mean() >= share - 1e-12 for s in scores if s < fixed)


def test_an_equal_score_is_accepted():
    """So that a constant detector, whose threshold is its score, rejects nothing."""
    assert recall([0.5, 0.5], np.array([True, False]), threshold([0.5, 0.5, 0.5])) == 0


@pytest.mark.parametrize("at", [-9, 0.0, 0.3, 1.0, 9])
def test_decisions_are_those_of_scikit_learn(at):
    rng = np.random.default_rng(0)
    anomalous = rng.random(200) < 0.3
    scores = (rng.normal(size=200) + anomalous).round(1)
    rejected, reference = scores > at, sklearn.metrics
    assert f1(scores, anomalous, at) == pytest.approx(reference.f1_score(anomalous, rejected, zero_division=0))
    assert recall(scores, anomalous, at) == pytest.approx(reference.recall_score(anomalous, rejected))
    assert false_positive_rate(scores, anomalous, at) == pytest.approx(reference.recall_score(~anomalous, rejected))
    counts = rng.integers(0, 3, 200)
    for measure in (F1, FalsePositiveRate, Recall):
        repeated = measure(np.repeat(scores, counts), np.repeat(anomalous, counts), at)()
        assert measure(scores, anomalous, at)(counts) == repeated


@pytest.mark.parametrize(("scores", "share"), [([], 0.99), ([float("nan"), 1.0], 0.99), ([1.0], 0.0), ([1.0], 1.5)])
def test_a_threshold_of_nothing_is_refused(scores, share):
    with pytest.raises(ValueError, match="needs finite numbers and 0 < share ≤ 1"):
        threshold(scores, share)
