import pytest
import torch

from oboro.model.position import grid_positions, rotary_angles, rotate, sincos


def test_positions_count_the_tokens_of_the_reference_row_by_row():
    expected = [
        [0.0, 0.0],
        [0.0, 1.0],
        [0.0, 2.0],
        [1.0, 0.0],
        [1.0, 1.0],
        [1.0, 2.0],
        [2.0, 0.0],
        [2.0, 1.0],
        [2.0, 2.0],
    ]
    torch.testing.assert_close(grid_positions((3, 3), 3), torch.tensor(expected))


def test_four_tokens_at_twice_the_resolution_lie_around_the_one_they_replace():
    coarse = grid_positions((3, 5), 8.0).view(3, 5, 2)
    fine = grid_positions((6, 10), 8.0).view(3, 2, 5, 2, 2)
    torch.testing.assert_close(fine.mean((1, 3)), coarse)
    assert (fine - coarse[:, None, :, None]).abs().amax((0, 1, 2, 3)).lt(1).all()


def test_the_range_of_positions_is_that_of_the_reference_at_any_size():
    """Cells of n tokens tile the stretch from -1/2 to extent - 1/2."""
    for n in (1, 7, 16, 33):
        rows = grid_positions((n, 1), 16.0)[:, 0]
        torch.testing.assert_close(rows[0] - 8 / n, torch.tensor(-0.5))
        torch.testing.assert_close(rows[-1] + 8 / n, torch.tensor(15.5))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_scalar_products_of_added_positions_are_sums_of_cosines_of_the_distance(axes, normal):
    """sin a sin b + cos a cos b = cos(a - b), summed over 10000^(-2 axes k / dim) for every axis."""
    a, b = 5 * normal(6, axes), 5 * normal(6, axes)
    omega = torch.tensor([10_000 ** (-2 * axes * k / 24) for k in range(12 // axes)], dtype=torch.float64)
    expected = torch.cos((a - b)[:, :, None] * omega).sum((1, 2))
    torch.testing.assert_close((sincos(a, 24) * sincos(b, 24)).sum(1), expected)


def test_the_first_half_of_an_added_position_tells_the_column(normal):
    positions = normal(5, 2)
    moved = sincos(positions + torch.tensor([3.0, 0.0]), 16)
    assert torch.equal(moved[:, :8], sincos(positions, 16)[:, :8])
    assert not torch.equal(moved[:, 8:], sincos(positions, 16)[:, 8:])


def test_rotary_logits_depend_on_relative_positions_only(normal):
    q, k, a, b = normal(7, 16), normal(7, 16), 5 * normal(7, 2), 5 * normal(7, 2)

    def logits(a, b):
        return rotate(q, rotary_angles(a, 16)) @ rotate(k, rotary_angles(b, 16)).T

    shift = torch.tensor([2.5, -11.0])
    torch.testing.assert_close(logits(a + shift, b + shift), logits(a, b))
    for axis in range(2):
        assert not torch.isclose(logits(a + 3 * torch.eye(2)[axis], b), logits(a, b)).any()


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rotary_logits_of_equal_vectors_are_sums_of_cosines_of_the_distance(axes, normal):
    """For q = k = 1, each plane gives 2 cos of its angle: 100^(-2 axes k / d) radians per position, for every axis."""
    a, b, one = 5 * normal(4, axes), 5 * normal(4, axes), torch.ones(4, 12, dtype=torch.float64)
    omega = torch.tensor([100 ** (-2 * axes * k / 12) for k in range(6 // axes)], dtype=torch.float64)
    logits = (rotate(one, rotary_angles(a, 12)) * rotate(one, rotary_angles(b, 12))).sum(1)
    torch.testing.assert_close(logits, 2 * torch.cos((a - b)[:, :, None] * omega).sum((1, 2)))


def test_rotations_in_half_precision_are_rounded_once(normal):
    x, angle = normal(5, 8).bfloat16(), 50 * normal(5, 4).float()
    torch.testing.assert_close(rotate(x, angle), rotate(x.double(), angle.double()).bfloat16())
