import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from conditioner.spelling import Spelling
from oboro.base import distributed
from oboro.codec import Identity
from oboro.condition import Condition, Label
from oboro.conditioner.encoded_texts import cache_texts, encoded
from oboro.denoiser import Denoiser
from oboro.extractor import Fashion
from oboro.generate import generate
from oboro.guidance import Unguided
from oboro.metrics import (
    Bank,
    DensityCoverage,
    Extracted,
    Frechet,
    Kernel,
    Memorization,
    PrecisionRecall,
    measure,
    nearest,
)
from oboro.model import UNet
from oboro.parameterization import EDM
from oboro.sampler import DDIM
from oboro.schedule import Karras

METRICS = {"fd": Frechet(), "pr": PrecisionRecall(), "dc": DensityCoverage(), "copies": Memorization(), "kd": Kernel()}
BLOCK = 8  # of 19 rows there are three, of 101 there are thirteen
CPU = torch.device("cpu")
TEXTS = [f"{'a' * (i % 5)}{i}" for i in range(100)]  # four chunks
CASES = [(7, 3), (2, 3), (9, 1), (6, 2)]  # (samples, chunk): a padded chunk, an idle rank, one each, even


def draw_all(network, n, chunk):
    """Samples 0..n-1 by ancestral sampling, on all ranks, and the progress that was announced."""

    def draw(ids):
        cond = Condition.of(label=Label(torch.tensor(ids) % 3))
        denoiser, sampler = Denoiser(network, Karras(), EDM()), DDIM(2, eta=1.0)
        keywords = {"ids": ids, "seed": 0, "cond": cond, "latent_shape": (1, 8, 8), "device": CPU}
        return generate(denoiser, Unguided(), sampler, Identity(1), **keywords)

    progress = []
    return distributed.map_samples(n, chunk, draw, CPU, progress.append), progress


def on_ranks(rank, folder, network):
    """What each of three processes runs: all of them together, then the first two. Results go to files."""
    torch.set_num_threads(1)
    nearest.BLOCK = BLOCK
    for world in (3, 2):
        if rank < world:
            dist.init_process_group("gloo", f"file://{folder}/meeting{world}", rank=rank, world_size=world)
            assert (distributed.rank(), distributed.world_size()) == (rank, world)
            torch.save(what_ranks_do(rank, folder / f"order{world}", network), folder / f"{world}.{rank}.pt")
            dist.destroy_process_group()


def what_ranks_do(rank, order, network):
    samples = [draw_all(network, n, chunk) for n, chunk in CASES]
    ragged = distributed.gather_rows(torch.arange(rank + 1) * 10 + rank, torch.full((rank + 1, 2), float(rank)))
    mean = distributed.mean(torch.tensor([[float(rank), 1.0]]))
    texts = read(cache_texts(TEXTS, Spelling(), order.with_name(f"{order.name} texts")))
    return samples, ragged, measured(order.with_name(f"{order.name} cache")), mean, texts, failing(rank), shared()


def read(rows):
    return [torch.stack(column) for column in zip(*(rows[text] for text in TEXTS), strict=True)]


def measured(cache):
    """The distance of 19 noise images to 101 others, features of both computed by all ranks; and the real features."""
    g = torch.Generator().manual_seed(0)
    extractor, noise = Fashion(), torch.randint(0, 256, (120, 1, 28, 28), generator=g, dtype=torch.uint8)
    extractor.load(CPU)
    reference = Extracted(extractor, ["features"], noise[19:], None, "noise", "train", cache)
    rows = distributed.map_samples(19, 4, lambda ids: extractor.rows(noise[ids], ["features"]), CPU, everywhere=False)
    assert len(rows) == (19 if distributed.rank() == 0 else 0)  # each rank had a share, and rank 0 has all
    bank = Bank({"features": rows})
    values = distributed.from_first(lambda: measure(METRICS, extractor, bank, reference))
    numbers = {name: (value.value, value.real, value.interval) for name, value in values.items()}
    return numbers, reference.bank["features"]


def half(item, numbers):
    """Work that ranks share: who did it, and a part of what was sent."""
    if item == "fails":
        raise LookupError("no jam")
    return torch.tensor(distributed.rank()), numbers[item]


def shared():
    """Work of ranks that wait for rank 0, twice in one call, in the order of the items; and an error in it."""
    numbers = torch.arange(5) / 2

    def f():
        return [distributed.share(half, [4, 0, 3, 1], numbers), distributed.share(half, [], numbers)]

    done = distributed.from_first(f)
    try:
        distributed.from_first(lambda: distributed.share(half, [0, "fails", 1], numbers))
    except Exception as error:
        return done, f"{type(error).__name__}: {error}"


def failing(rank):
    """What each rank sees when the last one fails in a chunk, when rank 0 fails in what it does alone, and where the
    last has memory for one sample."""

    def chunk(ids):
        if rank == distributed.world_size() - 1:
            raise FloatingPointError("no bread")
        return torch.tensor(ids)

    def alone():
        raise ZeroDivisionError("no butter")

    def little(ids):
        if rank == distributed.world_size() - 1 and len(ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.tensor(ids)

    seen = []
    for call in (lambda: distributed.map_samples(50, 2, chunk, CPU), lambda: distributed.from_first(alone)):
        try:
            call()
        except Exception as error:
            seen.append(f"{type(error).__name__}: {error}")
    return [*seen, distributed.map_samples(7, 3, little, CPU).tolist()]


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(1, 8, (1, 2), 1, (1,), 8, num_classes=3)
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.2)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def alone(network):
    return [draw_all(network, n, chunk) for n, chunk in CASES]


@pytest.fixture(scope="module")
def results(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(on_ranks, (folder, network), 3)
    return folder


@pytest.fixture(params=[2, 3])
def ranks(request, results):
    """(samples, ragged rows, seen) of each of two or three processes."""
    world = request.param
    return [torch.load(results / f"{world}.{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.mark.slow
def test_samples_are_the_same_bits_on_any_number_of_processes(ranks, alone):
    for samples, *_ in ranks:
        for (ours, progress), (expected, _), (n, _) in zip(samples, alone, CASES, strict=True):
            assert torch.equal(ours, expected)
            assert progress[-1] == n and progress == sorted(progress)


def test_samples_alone_are_those_of_their_ids(network, alone):
    """In chunks of equal shape; the padding of the last chunk does not matter."""
    three, single = alone[CASES.index((7, 3))][0], alone[CASES.index((9, 1))][0]
    assert len(three) == 7 and len(three.unique(dim=0)) == 7
    torch.testing.assert_close(three, single[:7], rtol=1e-4, atol=1e-4)
    assert torch.equal(draw_all(network, 6, 3)[0], three[:6])


@pytest.mark.slow
def test_encoded_texts_are_the_same_bits_on_any_number_of_processes(ranks):
    alone = [torch.stack(column) for column in zip(*encoded(Spelling(), TEXTS), strict=True)]
    for rank in ranks:
        assert all(torch.equal(ours, expected) for ours, expected in zip(rank[-3], alone, strict=True))


@pytest.mark.slow
def test_ragged_rows_are_gathered_in_the_order_of_their_ids(ranks):
    world = len(ranks)
    rows = sorted((10 * i + r, r) for r in range(world) for i in range(r + 1))
    for _, (ids, values), *_ in ranks:
        assert ids.tolist() == [i for i, _ in rows]
        assert values[:, 0].tolist() == [r for _, r in rows]


@pytest.mark.slow
def test_metrics_are_the_same_bits_on_any_number_of_processes(ranks, tmp_path, monkeypatch):
    """The reference too, whose features all ranks compute together and rank 0 keeps."""
    monkeypatch.setattr(nearest, "BLOCK", BLOCK)
    expected, features = measured(tmp_path)
    assert all(rank[2][0] == expected for rank in ranks)
    assert torch.equal(ranks[0][2][1], features)
    assert all(len(rank[2][1]) == 0 for rank in ranks[1:])


@pytest.mark.slow
def test_ranks_that_wait_for_the_first_work_for_it(ranks):
    world = len(ranks)
    for rank, (*_, ((first, second), failed)) in enumerate(ranks):
        assert [part[1].item() for part in first] == [2, 0, 1.5, 0.5] and second == []
        assert [part[0].item() for part in first] == [k % world for k in range(4)]
        own = "RankFailed: rank 1 failed: LookupError: no jam"
        assert failed == (own if rank == 0 else f"RankFailed: rank 0 failed: {own}")


def test_work_is_done_alone_where_there_is_one_rank():
    for found in (shared()[0][0], distributed.share(half, [4, 0, 3, 1], torch.arange(5) / 2)):
        assert [(who.item(), number.item()) for who, number in found] == [(0, 2), (0, 0), (0, 1.5), (0, 0.5)]


@pytest.mark.slow
def test_a_mean_is_that_of_all_ranks(ranks):
    assert all(rank[3].tolist() == [[(len(ranks) - 1) / 2, 1.0]] for rank in ranks)


@pytest.mark.slow
def test_a_rank_that_fails_ends_all_with_its_own_error(ranks):
    """At once: a rank that waited for the one that left would see a time-out, and the test would not end in time."""
    last = len(ranks) - 1
    for rank, (*_, seen, _) in enumerate(ranks):
        own, others = "FloatingPointError: no bread", f"RankFailed: rank {last} failed: FloatingPointError: no bread"
        alone, quoted = "ZeroDivisionError: no butter", "RankFailed: rank 0 failed: ZeroDivisionError: no butter"
        assert seen[:2] == [own if rank == last else others, alone if rank == 0 else quoted]


@pytest.mark.slow
def test_a_rank_with_little_memory_halves_its_chunks_alone(ranks):
    for *_, seen, _ in ranks:
        assert seen[2] == list(range(7))


# --- without processes


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize(("n", "size"), [(7, 3), (2, 3), (12, 3), (1, 1), (10, 4)])
def test_chunks_of_all_ranks_cover_each_id_once_in_equal_shapes(n, size, world, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    per_rank = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        per_rank.append(list(distributed.chunks(n, size)))
    assert len({len(chunks) for chunks in per_rank}) == 1  # none waits for a rank that has stopped
    assert all(len(chunk) == size for chunks in per_rank for chunk in chunks)
    ids = [i for chunks in per_rank for chunk in chunks for i in chunk if i >= 0]
    assert sorted(ids) == list(range(n))
    for rank, chunks in enumerate(per_rank):  # chunk k, the same ids for every world, is on rank k mod world
        for i, chunk in enumerate(chunks):
            k = i * world + rank
            assert chunk == [j if j < n else -1 for j in range(k * size, (k + 1) * size)]


def test_the_function_gets_real_ids_in_full_chunks():
    seen = []

    def f(ids):
        seen.append(ids)
        return torch.tensor(ids)

    assert distributed.map_samples(7, 3, f, CPU).tolist() == list(range(7))
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]


@pytest.mark.parametrize(
    "chunks", [[[0, 1], [3, -1]], [[0, 1], [1, 2], [3, -1]], [[0, 1]]], ids=["lost", "twice", "short"]
)
def test_a_missing_or_repeated_id_raises(chunks, monkeypatch):
    monkeypatch.setattr(distributed, "chunks", lambda n, size: chunks)
    with pytest.raises(RuntimeError, match=r"sample ids 0\.\.3 once each"):
        distributed.map_samples(4, 2, torch.tensor, CPU)
