import pytest
import torch

from oboro.base.errors import UserError
from oboro.data.stream import Chunks, TrainStream, places


def take(stream, count):
    return [selection for selection, _ in zip(stream, range(count), strict=False)]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("size", [5, 24, 1000])  # smaller than a batch, one batch, many
def test_union_over_ranks_and_micro_batches_is_the_same_step(world, accumulate, size):
    whole = TrainStream(size, 24, seed=3, flip=True)
    ranks = [
        take(TrainStream(size, 24, seed=3, flip=True, world=world, rank=r, accumulate=accumulate), 3 * accumulate)
        for r in range(world)
    ]
    for k in range(3):
        indices, flips = whole.positions(24 * k, 24 * (k + 1))
        parts = [ranks[r][k * accumulate + m] for m in range(accumulate) for r in range(world)]
        rows = [places(24, world, r, accumulate, m) for m in range(accumulate) for r in range(world)]
        assert all(torch.equal(indices[where], part) for where, (part, _) in zip(rows, parts, strict=True))
        assert torch.equal(torch.cat([p[0] for p in parts]), indices)
        assert torch.equal(torch.cat([p[1] for p in parts]), flips)


def test_every_image_once_per_epoch_in_another_order():
    stream = TrainStream(50, 10, seed=0)
    first, second = stream.positions(0, 50)[0], stream.positions(50, 100)[0]
    assert torch.equal(first.sort().values, torch.arange(50))
    assert torch.equal(second.sort().values, torch.arange(50))
    assert not torch.equal(first, second)
    assert not torch.equal(first, TrainStream(50, 10, seed=1).positions(0, 50)[0])


def test_a_position_does_not_depend_on_how_it_is_reached():
    indices, flips = TrainStream(7, 4, seed=5, flip=True).positions(0, 60)
    for first in (0, 3, 7, 13, 41):
        piece = TrainStream(7, 4, seed=5, flip=True).positions(first, first + 17)
        assert torch.equal(piece[0], indices[first : first + 17])
        assert torch.equal(piece[1], flips[first : first + 17])


def test_half_of_the_positions_are_mirrored_and_not_the_same_images_each_epoch():
    stream = TrainStream(10_000, 10, seed=0, flip=True)
    mirrored = [torch.zeros(10_000, dtype=torch.bool) for _ in range(2)]
    for epoch in range(2):
        indices, flips = stream.positions(10_000 * epoch, 10_000 * (epoch + 1))
        mirrored[epoch][indices] = flips
        assert abs(flips.double().mean() - 0.5) < 0.02  # four standard deviations
    assert not torch.equal(stream.positions(0, 10_000)[1], stream.positions(10_000, 20_000)[1])
    assert abs((mirrored[0] == mirrored[1]).double().mean() - 0.5) < 0.02


def test_another_number_of_devices_continues_the_same_order():
    before = take(TrainStream(11, 12, seed=0), 2)
    after = [take(TrainStream(11, 12, seed=0, world=3, rank=r, accumulate=2, start=lambda: 4), 2) for r in range(3)]
    joined = [s[0] for s in before] + [after[r][m][0] for m in range(2) for r in range(3)]
    assert torch.equal(torch.cat(joined), TrainStream(11, 12, seed=0).positions(0, 36)[0])


@pytest.mark.parametrize(
    ("batch_size", "world", "accumulate", "nearest"), [(10, 3, 1, 9), (128, 3, 2, 126), (1, 2, 2, 4)]
)
def test_indivisible_batch_is_refused_with_a_size_that_works(batch_size, world, accumulate, nearest):
    with pytest.raises(UserError, match=f"set data.batch_size={nearest}$"):
        TrainStream(100, batch_size, seed=0, world=world, accumulate=accumulate)
    TrainStream(100, nearest, seed=0, world=world, accumulate=accumulate)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [0, 5, 12, 13])
def test_chunks_are_the_same_for_every_world_and_cover_each_image_once(world, size):
    """All ranks have the same number of them: those that are left over hold no image."""
    expected = [torch.arange(s, min(s + 4, size)).tolist() for s in range(0, size, 4)]
    ranks = [Chunks(size, 4, world=world, rank=r) for r in range(world)]
    found = [indices.tolist() for chunks in ranks for indices, _ in chunks]
    assert sorted(chunk for chunk in found if -1 not in chunk) == expected
    assert all(chunk == [-1] * min(4, size) for chunk in found if -1 in chunk)
    assert {len(chunks) for chunks in ranks} == {len(list(chunks)) for chunks in ranks} == {-(-size // (4 * world))}
