import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from oboro.metrics.inception_score import inception_score


def normal(rng, *shape):
    return torch.randn(*shape, generator=rng)


@pytest.mark.parametrize(("n", "splits", "seed"), [(500, 10, 2020), (503, 10, 2020), (77, 3, 5), (40, 1, 2020)])
def test_parity_with_torch_fidelity(n, splits, seed, rng):
    logits = 2 * normal(rng, n, 12)
    theirs = isc_features_to_metric(logits, splits, True, seed)
    mean, std = inception_score(logits, splits, seed)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert std == pytest.approx(theirs["inception_score_std"], rel=1e-9, abs=1e-12)


def test_defaults_are_those_of_torch_fidelity(rng):
    logits = 2 * normal(rng, 300, 12)
    theirs = isc_features_to_metric(logits)
    assert inception_score(logits) == pytest.approx(tuple(theirs.values()), rel=1e-9)


def test_one_when_the_classifier_never_decides():
    assert inception_score(torch.full((100, 7), 3.0)) == pytest.approx((1.0, 0.0), abs=1e-14)


@pytest.mark.parametrize("logit", [50.0, 1e4])
def test_the_number_of_classes_when_each_is_certain_and_all_are_even(logit):
    """Also where the probabilities of the other classes underflow to zero, which leaves 0 · log 0."""
    classes = torch.arange(7).repeat(10)
    assert inception_score(logit * torch.eye(7)[classes], splits=1) == pytest.approx((7.0, 0.0), rel=1e-12)


def test_one_when_all_images_are_of_one_class(rng):
    certain = torch.zeros(100, 7)
    certain[:, 2] = 50
    assert inception_score(certain)[0] == pytest.approx(1, abs=1e-14)
    unsure = normal(rng, 1, 7).expand(100, 7)
    assert inception_score(unsure)[0] == pytest.approx(1, abs=1e-14), "varied answers are asked for, not varied classes"


def test_two_groups_in_closed_form():
    """Half of the images say (p, 1 − p), half the reverse: log IS = log 2 − H(p)."""
    p = 0.9
    logits = torch.tensor([[p, 1 - p], [1 - p, p]], dtype=torch.float64).log().repeat(50, 1)
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    assert inception_score(logits, splits=1)[0] == pytest.approx(2 * np.exp(-entropy), rel=1e-12)


def test_the_order_of_the_images_is_forgotten(rng):
    """Sorted by class, parts of ten images would each hold one class and score 1."""
    classes = torch.arange(10).repeat_interleave(50)
    assert inception_score(50 * torch.eye(10)[classes])[0] > 8


def test_fewer_images_than_parts_are_refused():
    with pytest.raises(ValueError, match="10 parts"):
        inception_score(torch.zeros(9, 5))
