from itertools import pairwise
from math import log

import pytest
import torch
from scipy import stats

from oboro.base.seeding import Brownian, SampleNoise, derive_seed, generator, low_discrepancy

pytestmark = pytest.mark.usefixtures("global_generator_unread")


@pytest.mark.parametrize(
    ("key", "seed"),
    [
        ((0, "train"), 1440870746343162602),
        ((0, "train", 0), 3205788069637787994),
        ((1, "train", 0), 4845178344220397643),
        ((0, "sample", 12, 3), 4749994252526776036),
        ((2**40, "order", 2**33), 6627294671420245526),
        ((-1, "朧", -7), 7582868498554699917),
    ],
)
def test_seeds_never_change(key, seed):
    """Frozen values: with others, no number of an earlier run could be reproduced."""
    assert derive_seed(*key) == seed


def test_keys_do_not_collide():
    keys = [(s, w, *i) for s in (0, 1, 11) for w in ("a", "b", "1") for i in ((), (0,), (1,), (1, 1), (11,), (1, 0))]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_seeds_fit_a_generator():
    seeds = [derive_seed(0, "x", i) for i in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62  # all 63 bits are used


def test_a_generator_is_a_function_of_its_key():
    draws = [torch.rand(4, generator=generator(*key)) for key in ((3, "a", 1), (3, "a", 1), (3, "a", 2), (4, "a", 1))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[3])


def test_numpy_and_tensor_indices_are_numbers():
    assert derive_seed(0, "x", torch.tensor(5)) == derive_seed(0, "x", 5)


def test_row_i_depends_on_seed_id_and_number_of_the_draw_alone():
    noise = SampleNoise(7, [5, 0, 123456])
    first, second = noise(torch.empty(3, 2, 4, 4)), noise(torch.empty(3, 2, 4, 4))
    assert not torch.equal(first, second)
    for ids in ([0], [123456, 5], [5, 9, 0, 1, 2]):
        other = SampleNoise(7, ids)
        for draw in (first, second):
            rows = other(torch.empty(len(ids), 2, 4, 4))
            for position, i in enumerate(ids):
                if i in (5, 0, 123456):
                    assert torch.equal(rows[position], draw[[5, 0, 123456].index(i)])
    assert not torch.equal(SampleNoise(8, [5])(torch.empty(1, 2, 4, 4))[0], first[0])


def test_the_draw_does_not_depend_on_the_type():
    """Drawn in single precision and converted, so that half precision sees the same noise."""
    full = SampleNoise(0, [1, 2])(torch.empty(2, 3, 4))
    for dtype in (torch.bfloat16, torch.float64):
        converted = SampleNoise(0, [1, 2])(torch.empty(2, 3, 4, dtype=dtype))
        assert torch.equal(converted, full.to(dtype))


def test_noise_is_standard_normal_and_independent_between_samples_and_draws():
    noise = SampleNoise(0, range(200))
    first, second = noise(torch.empty(200, 100)), noise(torch.empty(200, 100))
    assert stats.kstest(torch.cat([first, second]).flatten().numpy(), "norm").pvalue > 1e-3
    n = first.numel() ** 0.5
    assert abs((first * second).sum() / n) < 4
    assert abs((first[1:] * first[:-1]).sum() / n) < 4


def test_as_many_rows_as_ids():
    with pytest.raises(ValueError, match="3 sample ids cannot fill a batch of 2"):
        SampleNoise(0, [1, 2, 3])(torch.empty(2, 4))


@pytest.mark.parametrize(("first", "n"), [(0, 10), (0, 1000), (123, 50), (10**6, 5000), (2**40, 1000)])
def test_low_discrepancy_points_of_any_run_are_even(first, n):
    """The number of points below any value is right to within log n; independent draws would miss by the root of n."""
    u = low_discrepancy(torch.arange(first, first + n)).sort().values
    rank = torch.arange(n, dtype=torch.float64)
    assert torch.maximum((n * u - rank).abs(), (n * u - rank - 1).abs()).max() < 1 + log(n)
    assert (u >= 0).all() and (u < 1).all() and u.dtype == torch.float64


def test_low_discrepancy_point_i_depends_on_i_alone():
    ids = torch.tensor([[5, 0], [7, 3]])
    assert torch.equal(low_discrepancy(ids).flatten(), low_discrepancy(torch.arange(8))[ids.flatten()])
    assert float(low_discrepancy(torch.tensor(0))) == pytest.approx(0.5 / ((1 + 5**0.5) / 2), abs=1e-15)


# --- Brownian motion


def increments(ids, a, b, order=1, shape=(8,)):
    spans = list(zip(a, b, strict=True))[::order]
    noise = SampleNoise(0, ids)
    rows = [noise.between(torch.empty(len(ids), *shape, dtype=torch.float64), *span) for span in spans]
    return torch.stack(rows[::order])


def test_brownian_increments_are_normal_and_independent():
    times = [0.0, 1e-4, 0.01, 0.3, 0.31, 0.5, 0.9, 1.0]
    z = increments(range(300), times[:-1], times[1:]).flatten(1)
    for row in z:
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(z) - torch.eye(len(z), dtype=torch.float64)
    assert correlation.abs().max() < 5 / z.shape[1] ** 0.5


def test_a_finer_grid_sees_the_same_path():
    """W(b) - W(a) is the sum of the increments in between, in whatever order they are asked for."""
    times = torch.linspace(0.2, 0.8, 7, dtype=torch.float64).tolist()
    whole = increments([3, 8], [0.2], [0.8])[0] * 0.6**0.5
    for order in (1, -1):
        parts = increments([3, 8], times[:-1], times[1:], order)
        torch.testing.assert_close(parts.sum(0) * 0.1**0.5, whole, rtol=1e-4, atol=1e-4)  # times are rounded to 2^-20


def test_a_path_depends_on_seed_and_id_alone():
    like = torch.empty(1, 4)
    path = SampleNoise(0, [7]).between(like, 0.1, 0.2)
    assert torch.equal(SampleNoise(0, [5, 7]).between(torch.empty(2, 4), 0.1, 0.2)[1:], path)
    noise = SampleNoise(0, [7])
    noise(like), noise.between(like, 0.5, 0.9)
    assert torch.equal(noise.between(like, 0.1, 0.2), path)
    for other in (SampleNoise(1, [7]), SampleNoise(0, [8])):
        assert not torch.equal(other.between(like, 0.1, 0.2), path)


def test_the_shortest_interval_is_a_tick():
    w = Brownian(0, 0)
    assert w.increment((3,), 0.5, 0.5).isfinite().all() and w.increment((3,), 1.0, 1.0).isfinite().all()


def plain_path(seed, id, shape, tick):
    """W(tick / 2^20) from the top of the tree, with nothing kept."""
    low, high, level = 0, 1 << 20, 0
    at_low, at_high = torch.zeros(shape), torch.randn(shape, generator=generator(seed, "brownian", id, 0, 0))
    while tick not in (low, high):
        middle, level = (low + high) // 2, level + 1
        normal = torch.randn(shape, generator=generator(seed, "brownian", id, level, middle))
        value = (at_low + at_high) / 2 + 2.0 ** (-(level + 1) / 2) * normal
        if tick < middle:
            high, at_high = middle, value
        else:
            low, at_low = middle, value
    return at_low if tick == low else at_high


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 7)], ids=str)
def test_what_is_kept_of_a_path_changes_no_bit(shape, rng):
    """Downwards as solvers go, half-way and back as 2S does, in any order, and with another shape in between."""
    w, n = Brownian(3, 4), 1 << 20
    down = (torch.rand(12, generator=rng, dtype=torch.float64).sort(descending=True).values * n).long().tolist()
    half_way = [tick for t, s in pairwise(down) for tick in (t, (t + s) // 2, t, s)]
    for tick in [
        *down,
        *half_way,
        *down[::-1],
        0,
        n,
        1,
        n - 1,
        n // 2,
        n // 2 + 1,
        *torch.randperm(n, generator=rng)[:9].tolist(),
    ]:
        assert torch.equal(torch.from_numpy(w.at(shape, tick)), plain_path(3, 4, shape, tick))
    w.at((9,), down[0])
    for a, b in ((0.2, 0.7), (0.5, 0.5), (0.0, 1e-9), (1.0, 1.0)):
        first = min(round(a * n), n - 1)
        last = max(round(b * n), first + 1)
        later, before = (plain_path(3, 4, shape, tick) for tick in (last, first))
        assert torch.equal(w.increment(shape, a, b), (later - before) * ((last - first) / n) ** -0.5)


def test_a_walk_draws_no_more_than_its_part_of_the_tree():
    """50 steps and 50 half steps, as 2S takes them; a descent from the top for each value would draw 3000 arrays."""

    class Counting(Brownian):
        draws = 0

        def _normal(self, level, index):
            self.draws += 1
            return super()._normal(level, index)

    w, times = Counting(0, 0), torch.linspace(1, 0.01, 51, dtype=torch.float64).tolist()
    for t, s in pairwise(times):
        for a, b in (((s + t) / 2, t), (s, t)):
            w.increment((4,), a, b)
            assert len(w._path) + len(w._recent) <= Brownian.KEPT + 3
    ticks = {round(v * 2**20) for t, s in pairwise(times) for v in ((s + t) / 2, s, t)}
    tree = {(level, tick >> (21 - level)) for tick in ticks for level in range(1, 21) if tick % (1 << (21 - level))}
    assert w.draws < 1.05 * (1 + len(tree)) < 1600


def test_threads_change_no_bit_of_a_path():
    like, threads = torch.empty(3, 1, 128, 128), torch.get_num_threads()
    alone = SampleNoise(0, [4, 1, 7]).between(like, 0.3, 0.8)
    torch.set_num_threads(4)
    try:
        assert torch.equal(SampleNoise(0, [4, 1, 7]).between(like, 0.3, 0.8), alone)
    finally:
        torch.set_num_threads(threads)
