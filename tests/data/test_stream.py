from itertools import chain, pairwise

import numpy as np
import pytest
import torch

from oboro.base.errors import UserError
from oboro.data.stream import Chunks, Shuffled, ShuffledWindows, TrainStream, places


def take(stream, count):
    return [selection for selection, _ in zip(stream, range(count), strict=False)]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("size", [5, 24, 1000])  # smaller than a batch, one batch, many
def test_union_over_ranks_and_micro_batches_is_the_same_step(world, accumulate, size):
    whole = TrainStream(Shuffled(size, 3), 24, flip=True)
    ranks = [
        take(TrainStream(Shuffled(size, 3), 24, flip=True, world=world, rank=r, accumulate=accumulate), 3 * accumulate)
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
    stream = TrainStream(Shuffled(50, 0), 10)
    first, second = stream.positions(0, 50)[0], stream.positions(50, 100)[0]
    assert torch.equal(first.sort().values, torch.arange(50))
    assert torch.equal(second.sort().values, torch.arange(50))
    assert not torch.equal(first, second)
    assert not torch.equal(first, TrainStream(Shuffled(50, 1), 10).positions(0, 50)[0])


def test_a_position_does_not_depend_on_how_it_is_reached():
    indices, flips = TrainStream(Shuffled(7, 5), 4, flip=True).positions(0, 60)
    for first in (0, 3, 7, 13, 41):
        piece = TrainStream(Shuffled(7, 5), 4, flip=True).positions(first, first + 17)
        assert torch.equal(piece[0], indices[first : first + 17])
        assert torch.equal(piece[1], flips[first : first + 17])


def test_half_of_the_positions_are_mirrored_and_not_the_same_images_each_epoch():
    stream = TrainStream(Shuffled(10_000, 0), 10, flip=True)
    mirrored = [torch.zeros(10_000, dtype=torch.bool) for _ in range(2)]
    for epoch in range(2):
        indices, flips = stream.positions(10_000 * epoch, 10_000 * (epoch + 1))
        mirrored[epoch][indices] = flips
        assert abs(flips.double().mean() - 0.5) < 0.02  # four standard deviations
    assert not torch.equal(stream.positions(0, 10_000)[1], stream.positions(10_000, 20_000)[1])
    assert abs((mirrored[0] == mirrored[1]).double().mean() - 0.5) < 0.02


def test_another_number_of_devices_continues_the_same_order():
    before = take(TrainStream(Shuffled(11, 0), 12), 2)
    after = [
        take(TrainStream(Shuffled(11, 0), 12, world=3, rank=r, accumulate=2, start=lambda: 4), 2) for r in range(3)
    ]
    joined = [s[0] for s in before] + [after[r][m][0] for m in range(2) for r in range(3)]
    assert torch.equal(torch.cat(joined), TrainStream(Shuffled(11, 0), 12).positions(0, 36)[0])


@pytest.mark.parametrize(
    ("batch_size", "world", "accumulate", "nearest"), [(10, 3, 1, 9), (128, 3, 2, 126), (1, 2, 2, 4)]
)
def test_indivisible_batch_is_refused_with_a_size_that_works(batch_size, world, accumulate, nearest):
    with pytest.raises(UserError, match=f"set data.batch_size={nearest}$"):
        TrainStream(Shuffled(100, 0), batch_size, world=world, accumulate=accumulate)
    TrainStream(Shuffled(100, 0), nearest, world=world, accumulate=accumulate)


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


COUNTS = [7, 0, 12, 5, 9, 1, 30, 4, 8]  # rows of nine shards


def shard_of(samples):
    return np.searchsorted(np.cumsum(COUNTS), samples.numpy(), "right")


def test_windows_have_every_sample_once_and_those_of_few_shards_at_a_time():
    windows = []
    order = ShuffledWindows(COUNTS, 3, seed=4, ahead=lambda own, after: windows.append((own, after)))
    epochs = [TrainStream(order, 19).positions(76 * e, 76 * (e + 1))[0] for e in (0, 1)]
    assert all(asked == read for (_, asked), (read, _) in pairwise(windows))  # what is fetched ahead is read next
    for epoch, samples in enumerate(epochs):
        assert torch.equal(samples.sort().values, torch.arange(76))
        own = [shards for shards, _ in windows[3 * epoch : 3 * epoch + 3]]
        assert sorted(chain(*own)) == [0, 2, 3, 4, 5, 6, 7, 8]  # the others have no rows
        ends = np.cumsum([sum(COUNTS[k] for k in shards) for shards in own])
        for shards, part in zip(own, np.split(shard_of(samples), ends[:-1]), strict=True):
            assert set(part) == set(shards)
            assert (np.diff(part) != 0).sum() > 3  # mixed, and not one after the other
    assert not torch.equal(*epochs)


def test_a_position_in_windows_does_not_depend_on_how_it_is_reached():
    indices, flips = TrainStream(ShuffledWindows(COUNTS, 2, seed=5), 4, flip=True).positions(0, 300)
    for first in (0, 6, 75, 76, 77, 200):
        piece = TrainStream(ShuffledWindows(COUNTS, 2, seed=5), 4, flip=True).positions(first, first + 90)
        assert torch.equal(piece[0], indices[first : first + 90])
        assert torch.equal(piece[1], flips[first : first + 90])


def test_one_window_is_the_order_without_windows():
    plain, windows = Shuffled(76, 7), ShuffledWindows(COUNTS, 8, seed=7)
    for one, other in zip(*(TrainStream(o, 4, flip=True).positions(0, 300) for o in (plain, windows)), strict=True):
        assert torch.equal(one, other)
