import pytest
import scipy.spatial.distance
import torch

from oboro.metrics import nearest as module
from oboro.metrics.nearest import blocks, centre_of, nearest, paired_distances, radii, rows_of


@pytest.fixture(params=[3, 7, 1024])
def block(request, monkeypatch):
    """Blocks smaller than the sets, which do not divide them, and one block for all."""
    monkeypatch.setattr(module, "BLOCK", request.param)


def normal(rng, *shape):
    return torch.randn(*shape, generator=rng)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.usefixtures("block")
def test_equals_a_full_sort_of_all_distances(offset, rng):
    x, y = normal(rng, 20, 5) + offset, normal(rng, 17, 5) + offset
    everything = torch.from_numpy(scipy.spatial.distance.cdist(x.double(), y.double())).sort(1)
    distances, indices = nearest(x, y, 4)
    torch.testing.assert_close(distances, everything.values[:, :4], rtol=1e-14, atol=0)
    assert torch.equal(indices, everything.indices[:, :4])


@pytest.mark.usefixtures("block")
def test_a_row_is_not_its_own_neighbour_but_its_double_is(rng):
    x = normal(rng, 20, 5)
    x[13] = x[2]
    distances, indices = nearest(x, x, 2, exclude_self=True)
    assert not (indices == torch.arange(20)[:, None]).any()
    assert indices[2, 0] == 13 and indices[13, 0] == 2
    assert distances[2, 0] == distances[13, 0] == 0, "not 1e-8, what |a|² + |b|² − 2ab leaves"
    rest = torch.from_numpy(scipy.spatial.distance.cdist(x.double(), x.double())).fill_diagonal_(torch.inf).sort(1)
    torch.testing.assert_close(distances, rest.values[:, :2], rtol=1e-14, atol=0)


def test_equal_distances_come_in_the_order_of_indices():
    """Four corners of a square around the origin, and one point far away."""
    y = torch.tensor([[1.0, 1], [9, 9], [-1, 1], [1, -1], [-1, -1]])
    distances, indices = nearest(torch.zeros(1, 2), y, 4)
    assert indices.tolist() == [[0, 2, 3, 4]]
    assert distances[0].tolist() == pytest.approx([2**0.5] * 4, rel=1e-15)


def test_the_nearest_is_found_where_all_float32_digits_are_used(rng):
    """Squared norms above 2⁵⁶, where float64 counts in steps of 16; squared distances are small whole numbers."""
    x = (2**24 - 100 - torch.arange(500.0)).repeat(60, 1)
    x[:, :5] += torch.randint(0, 9, (60, 5), generator=rng)
    exact = torch.from_numpy(scipy.spatial.distance.cdist(x.double(), x.double())).fill_diagonal_(torch.inf)
    torch.testing.assert_close(radii(x, 1), exact.min(1).values, rtol=1e-14, atol=0)


@pytest.mark.usefixtures("block")
def test_comparison_with_a_radius_is_exact_where_they_are_equal(rng):
    """Each radius is the distance of one pair; the sign is 0 there, and that of the difference elsewhere.

    The rows lie in two groups far apart, each much narrower than their distance from any centre.
    """
    x, y = normal(rng, 20, 50), normal(rng, 30, 50)
    x[::2] += 1000
    y[::2] += 1000
    partner = 2 * torch.randint(0, 10, (30,), generator=rng) + torch.arange(30) % 2
    r = paired_distances(x[partner], y)
    signs = torch.zeros(20, 30, dtype=torch.float64)
    for b in (block for rows in rows_of(x) for block in blocks(rows, x, y, centre_of(y))):
        signs[b.rows, b.cols] = b.compare(r[b.cols])
    expected = torch.from_numpy(scipy.spatial.distance.cdist(x.double(), y.double()) - r.numpy()).sign()
    expected[partner, torch.arange(30)] = 0
    assert torch.equal(signs, expected)


def test_radii_are_those_of_the_kth_other_row():
    assert radii(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), 2).tolist() == [3.0, 2.0, 3.0, 6.0]


def test_what_has_no_answer_is_refused():
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="5 neighbours"):
        nearest(x, x, 5)
    with pytest.raises(ValueError, match="among 3 rows"):
        nearest(x, x, 4, exclude_self=True)
    with pytest.raises(ValueError, match="a set and itself"):
        nearest(x, x[:3], 1, exclude_self=True)
    with pytest.raises(ValueError, match="one d"):
        nearest(x, torch.zeros(4, 3), 1)
    with pytest.raises(ValueError, match="1 of 8"):
        nearest(x, torch.tensor([[0.0, torch.nan], [0, 0], [0, 0], [0, 0]]), 1)
