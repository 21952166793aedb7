"""The draws of all parts of a batch are, put together, those of one process."""

import pytest
import torch

from oboro.base.draws import BatchGenerator, rand, randn, randperm
from oboro.base.errors import UserError
from oboro.base.seeding import derive_seed, generator
from oboro.data.stream import places

pytestmark = pytest.mark.usefixtures("global_generator_unread")

BATCH = 12
SPLITS = [(1, 1), (2, 1), (1, 3), (2, 3), (12, 1), (3, 4)]


def drawn(g: torch.Generator, n: int) -> list[torch.Tensor]:
    """Draws of many shapes in a row: torch fills fewer and more than 16 normal numbers in different ways."""
    order, count = randperm(n, g)
    assert count == BATCH
    return [rand((n,), g), randn((n, 3, 5, 7), g), order, randn((n, 1), g), rand((n, 2), g), randn((n, 64), g)]


def part(world: int, rank: int, accumulate: int, micro: int, step: int = 7) -> BatchGenerator:
    rows = places(BATCH, world, rank, accumulate, micro)
    own = derive_seed(3, "train part", step, micro, rank)
    return BatchGenerator(generator(3, "train", step, 0, 0), own, rows, BATCH)


@pytest.mark.parametrize(("world", "accumulate"), SPLITS)
def test_ranks_and_micro_batches_have_the_draws_of_one_process(world, accumulate):
    alone = drawn(generator(3, "train", 7, 0, 0), BATCH)
    parts = [
        drawn(part(world, rank, accumulate, micro), BATCH // (world * accumulate))
        for micro in range(accumulate)
        for rank in range(world)
    ]
    for whole, pieces in zip(alone, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(pieces), whole)


def test_what_torch_draws_is_new_in_every_part():
    """For losses of one's own, that know nothing of a batch: as many parts, as many different draws."""
    first = [torch.randn(4, generator=part(3, rank, 2, micro)) for rank in range(3) for micro in range(2)]
    first += [randn((2, 2), part(3, rank, 2, micro)).flatten() for rank in range(3) for micro in range(2)]
    assert len(torch.stack(first).unique(dim=0)) == 12


def test_draws_of_another_number_of_samples_raise():
    with pytest.raises(UserError, match="5 samples are drawn for, and the data module says that 6"):
        randn((5, 2), part(2, 0, 1, 0))
