import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from oboro.metrics import nearest as nearest_module
from oboro.metrics.manifold import density_coverage, precision_recall
from oboro.metrics.nearest import radii


def normal(rng, *shape):
    return torch.randn(*shape, generator=rng)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(nearest_module, "BLOCK", 17)


def radius(point, others, k):
    return sorted(math.dist(point, other) for other in others)[k - 1]


def by_loops(generated, reference, k):
    """Precision, recall, density and coverage, each from its definition."""
    g, r = generated.double().tolist(), reference.double().tolist()
    balls = [radius(p, r[:i] + r[i + 1 :], k) for i, p in enumerate(r)]
    own = [radius(p, g[:i] + g[i + 1 :], k) for i, p in enumerate(g)]
    precision = np.mean([any(math.dist(p, c) <= b for c, b in zip(r, balls, strict=True)) for p in g])
    recall = np.mean([any(math.dist(p, c) <= b for c, b in zip(g, own, strict=True)) for p in r])
    density = np.mean([sum(math.dist(p, c) < b for c, b in zip(r, balls, strict=True)) for p in g]) / k
    coverage = np.mean([any(math.dist(p, c) < b for p in g) for c, b in zip(r, balls, strict=True)])
    return precision, recall, density, coverage


@pytest.mark.parametrize(("n", "m", "k", "shift"), [(40, 50, 3, 0.5), (60, 30, 5, 0.0), (35, 35, 1, 1.0)])
@pytest.mark.usefixtures("small_blocks")
def test_equal_to_the_definitions(n, m, k, shift, rng):
    generated, reference = 0.8 * normal(rng, n, 3) + shift, normal(rng, m, 3)
    found = (*precision_recall(generated, reference, k), *density_coverage(generated, reference, k))
    assert found == pytest.approx(by_loops(generated, reference, k), abs=1e-14)


def test_points_on_a_sphere_are_in_a_closed_ball_and_not_in_an_open_one(rng):
    """Of a lattice, where many distances are equal: balls of precision and recall are closed, the others open."""
    for _ in range(20):
        generated, reference = (torch.randint(9, (12, 2), generator=rng).float() for _ in range(2))
        found = (*precision_recall(generated, reference, 2), *density_coverage(generated, reference, 2))
        assert found == pytest.approx(by_loops(generated, reference, 2), abs=1e-14)


@pytest.mark.parametrize("shift", [0.0, 0.4, 1.0])
def test_parity_with_torch_fidelity(shift, rng):
    generated, reference = normal(rng, 300, 8) + shift, normal(rng, 250, 8)
    theirs = prc_features_to_metric(generated, reference, verbose=False)
    precision, recall = precision_recall(generated, reference)
    assert precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert recall == pytest.approx(theirs["recall"], abs=1e-6)
    assert 0 < recall < 1, "a case that can tell a wrong radius"


@pytest.mark.parametrize(("n", "m", "k"), [(50, 50, 5), (80, 40, 3), (30, 60, 2)])
def test_what_equal_distributions_score(n, m, k, rng):
    """E density = 1, E coverage = 1 − (m−1)…(m−k) / (m+n−1)…(m+n−k): order statistics, so any distribution will do."""
    pairs = ((normal(rng, n, 2).exp(), normal(rng, m, 2).exp()) for _ in range(150))
    found = np.array([density_coverage(a, b, k) for a, b in pairs])
    error = found.std(0) / math.sqrt(len(found))
    missed = math.prod((m - i) / (m + n - i) for i in range(1, k + 1))
    assert (np.abs(found.mean(0) - [1, 1 - missed]) < 3 * error).all()
    assert (error < 0.01).all(), "the mean is known well enough to tell k from k + 1"


def test_a_collapsed_generator_is_precise_and_recalls_little(rng):
    """Everything near one of four modes: inside the reference, and blind to three quarters of it."""
    centres = 20 * torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    reference = normal(rng, 400, 2) + centres.repeat(100, 1)
    generated = 0.3 * normal(rng, 400, 2)
    precision, recall = precision_recall(generated, reference)
    density, coverage = density_coverage(generated, reference)
    assert precision > 0.95 and recall < 0.25
    assert 0.7 < density < 1.3 and coverage < 0.25, "a point anywhere inside lies in k balls on average"


def test_a_generator_that_is_too_wide_is_imprecise_and_recalls_all(rng):
    reference, generated = normal(rng, 400, 4), 4 * normal(rng, 400, 4)
    precision, recall = precision_recall(generated, reference)
    density, _ = density_coverage(generated, reference)
    assert precision < 0.5 and recall > 0.95
    assert density < 0.3


def test_copies_of_the_reference(rng):
    """Each lies in its own ball and on the rim of others: exactly k of them in each open ball, so density is exactly 1.

    An offset of 100 makes rounding of the distances on the rims visible.
    """
    reference = normal(rng, 300, 20) + 100
    copies = reference[torch.randperm(300, generator=rng)]
    assert precision_recall(copies, reference) == (1, 1)
    assert density_coverage(copies, reference) == (1, 1)


def test_a_few_outliers_make_recall_jump_and_leave_coverage(rng):
    """The balls around scattered generated samples are wide enough to hold the whole reference."""
    reference, narrow = normal(rng, 300, 8), 0.2 * normal(rng, 300, 8)
    spoiled = torch.cat([narrow, 30 * torch.eye(8), -30 * torch.eye(8)])
    assert precision_recall(narrow, reference)[1] < 0.1
    assert precision_recall(spoiled, reference)[1] > 0.9
    change = density_coverage(spoiled, reference)[1] - density_coverage(narrow, reference)[1]
    assert abs(change) < 0.05


def test_kept_radii_change_nothing(rng):
    generated, reference = normal(rng, 90, 4), normal(rng, 80, 4)
    kept = radii(reference, 3)
    assert precision_recall(generated, reference, 3, kept) == precision_recall(generated, reference, 3)
    assert density_coverage(generated, reference, 3, kept) == density_coverage(generated, reference, 3)
    assert density_coverage(generated, reference, 3, 0 * kept) == (0, 0), "they are used"
    with pytest.raises(ValueError, match="80 reference samples"):
        density_coverage(generated, reference, 3, kept[:-1])


def test_bad_features_are_refused(rng):
    """Also where kept radii leave nothing to compute on the reference: a comparison with NaN is false, not an error."""
    generated, reference = normal(rng, 9, 4), normal(rng, 8, 4)
    kept = radii(reference, 3)
    generated[2, 1] = torch.nan
    with pytest.raises(ValueError, match="1 of 17"):
        density_coverage(generated, reference, 3, kept)
    with pytest.raises(ValueError, match="one d"):
        density_coverage(normal(rng, 9, 5), reference, 3, kept)


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="3 neighbours"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2))
    with pytest.raises(ValueError, match="5 neighbours"):
        density_coverage(torch.zeros(9, 2), torch.zeros(5, 2))
