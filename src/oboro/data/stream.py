"""The order of the samples, as batch samplers that yield ``(indices, flips)``."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.seeding import generator

Selection = tuple[Tensor, Tensor | None]


class TrainStream(Sampler):
    """The infinite global stream of training samples, or one rank's share of it.

    Position j of the stream is sample ``permutation_e[j mod n]`` of epoch ``e = j // n``, mirrored if bit ``j mod n``
    of the epoch is set; permutation and bits are pure functions of ``(seed, e)``. Optimizer step k consumes positions
    [k·batch_size, (k+1)·batch_size): micro-batch m of rank r takes the b positions from ``((k·A + m)·world + r)·b``
    with A micro-batches per step and ``b = batch_size / (A·world)``. So the union over ranks and micro-batches does not
    depend on either. Flips are None without ``flip``.

    ``start()`` gives, at the beginning of each iteration, the micro-batches that every rank has consumed.
    Raises ``UserError`` where ``batch_size`` does not divide.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        *,
        flip: bool = False,
        world: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        start: Callable[[], int] = lambda: 0,
    ):
        parts = world * accumulate
        if batch_size % parts:
            nearest = max(1, round(batch_size / parts)) * parts
            raise UserError(
                f"data.batch_size={batch_size} does not divide by {counted(world, 'devices')} times "
                f"{counted(accumulate, 'accumulated micro-batches')}; set data.batch_size={nearest}"
            )
        self.micro_batch_size = batch_size // parts
        self._size, self._seed, self._flip = size, seed, flip
        self._world, self._rank, self._start = world, rank, start
        self._epoch: tuple[int, Tensor, Tensor] | None = None

    def positions(self, first: int, last: int) -> Selection:
        """Samples (last − first,) int64 and mirror bits at the positions [first, last) of the global stream."""
        indices, flips = [], []
        while first < last:
            epoch, offset = divmod(first, self._size)
            count = min(self._size - offset, last - first)
            permutation, bits = self._draw(epoch)
            indices.append(permutation[offset : offset + count])
            flips.append(bits[offset : offset + count])
            first += count
        return torch.cat(indices), torch.cat(flips) if self._flip else None

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        if self._epoch is None or self._epoch[0] != epoch:
            order = torch.randperm(self._size, generator=generator(self._seed, "order", epoch))
            bits = torch.randint(2, (self._size,), generator=generator(self._seed, "flip", epoch), dtype=torch.uint8)
            self._epoch = epoch, order, bits.bool()
        return self._epoch[1:]

    def __iter__(self) -> Iterator[Selection]:
        micro_batch, b = self._start(), self.micro_batch_size
        while True:
            first = (micro_batch * self._world + self._rank) * b
            yield self.positions(first, first + b)
            micro_batch += 1


def places(batch_size: int, world: int, rank: int, accumulate: int, micro_batch: int) -> Tensor:
    """The places (b,), int64, that a micro-batch of one step has in the step's share of ``TrainStream``."""
    b = batch_size // (world * accumulate)
    return (micro_batch * world + rank) * b + torch.arange(b)


class Mixture(Sampler):
    """Micro-batches that hold one of each of ``streams``, in their order: every batch has all kinds in proportion.

    Sample i of stream k is ``rows[k][i]``. Resumes, and divides over ranks and micro-batches, as its streams do.
    """

    def __init__(self, streams: Sequence[TrainStream], rows: Sequence[Tensor]):
        self._streams, self._rows = streams, rows

    def __iter__(self) -> Iterator[Selection]:
        for selections in zip(*self._streams, strict=True):
            indices, flips = zip(*selections, strict=True)
            chosen = torch.cat([rows[i] for rows, i in zip(self._rows, indices, strict=True)])
            yield chosen, None if flips[0] is None else torch.cat(flips)


class Chunks(Sampler):
    """Every one of ``size`` samples once, in order, in chunks of ``chunk``; chunk k belongs to rank ``k mod world``.

    The chunks do not depend on ``world``, so neither does the result of a model on them. All ranks get the same number
    of chunks, since in each they meet (DDP sends buffers): a rank that is left without one gets a chunk whose
    indices are -1, to be dropped by ``oboro.base.distributed.gather_rows``.
    """

    def __init__(self, size: int, chunk: int, *, world: int = 1, rank: int = 0):
        rounds = -(-size // (chunk * world))
        self._starts = range(rank * chunk, rounds * chunk * world, chunk * world)
        self._size, self._chunk = size, min(chunk, size)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Selection]:
        for start in self._starts:
            last = min(start + self._chunk, self._size)
            yield torch.arange(start, last) if start < last else torch.full((self._chunk,), -1), None
