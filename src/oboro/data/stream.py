"""The order of the samples, as batch samplers that yield ``(indices, flips)``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.seeding import generator

Selection = tuple[Tensor, Tensor | None]


class Order(ABC):
    """In which order an epoch has its ``size`` samples: a pure function of its number."""

    def __init__(self, size: int):
        self.size = size

    @abstractmethod
    def part(self, epoch: int, offset: int) -> tuple[Tensor, Tensor]:
        """The samples (m,) int64 from place ``offset`` of an epoch on, and whether each is mirrored, (m,) bool; m is at
        least 1 and reaches as far as it is convenient."""


class Shuffled(Order):
    """A permutation of all samples, drawn for ``(seed, epoch)``."""

    def __init__(self, size: int, seed: int):
        super().__init__(size)
        self._drawn = lru_cache(1)(lambda epoch: drawn(size, seed, epoch))

    def part(self, epoch: int, offset: int) -> tuple[Tensor, Tensor]:
        order, flips = self._drawn(epoch)
        return order[offset:], flips[offset:]


class ShuffledWindows(Order):
    """The samples of ``window`` shards at a time, shuffled among each other, and the shards shuffled before: what is
    read at once lies in few files, and memory holds the order of a window alone.

    Samples are numbered shard by shard, of which ``counts`` are the numbers. Both permutations are drawn for
    ``(seed, epoch)``, the inner one for the number of the window as well. ``ahead(own, after)`` gets, when a window
    begins, its shards and those of the next one, so that they can be fetched. A single window is ``Shuffled``, to the
    last sample.
    """

    def __init__(
        self,
        counts: Sequence[int],
        window: int,
        seed: int,
        ahead: Callable[[list[int], list[int]], None] = lambda own, after: None,
    ):
        super().__init__(sum(counts))
        self._counts, self._first = np.asarray(counts), np.concatenate([[0], np.cumsum(counts)])
        self._window, self._seed, self._ahead = window, seed, ahead
        self._shards = lru_cache(2)(self._draw_shards)
        self._drawn = lru_cache(1)(self._draw)

    def part(self, epoch: int, offset: int) -> tuple[Tensor, Tensor]:
        shards = self._shards(epoch)
        begins = np.concatenate([[0], np.cumsum(self._counts[shards])])[:: self._window]
        number = int(np.searchsorted(begins, offset, "right")) - 1
        samples, flips = self._drawn(epoch, number)
        return samples[offset - begins[number] :], flips[offset - begins[number] :]

    def _draw_shards(self, epoch: int) -> np.ndarray:
        """Those with samples, in their order."""
        filled = np.flatnonzero(self._counts)
        if len(filled) <= self._window:
            return filled
        return filled[torch.randperm(len(filled), generator=generator(self._seed, "shards", epoch)).numpy()]

    def _draw(self, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        shards, first = self._shards(epoch), number * self._window
        own, after = (shards[k : k + self._window] for k in (first, first + self._window))
        after = after if len(after) else self._shards(epoch + 1)[: self._window]
        self._ahead(own.tolist(), after.tolist())
        samples = np.concatenate([np.arange(self._first[k], self._first[k + 1]) for k in own])
        order, flips = drawn(len(samples), self._seed, epoch, *([number] if len(shards) > self._window else []))
        return torch.from_numpy(samples)[order], flips


def drawn(size: int, seed: int, *names: int) -> tuple[Tensor, Tensor]:
    """A permutation (size,) and mirror bits of it, (size,) bool."""
    order = torch.randperm(size, generator=generator(seed, "order", *names))
    return order, torch.randint(2, (size,), generator=generator(seed, "flip", *names), dtype=torch.uint8).bool()


class TrainStream(Sampler):
    """The infinite global stream of training samples, or one rank's share of it.

    Position j of the stream is the sample at place ``j mod n`` of epoch ``e = j // n`` in an ``order`` of n samples,
    which says, too, whether it is mirrored. Optimizer step k consumes positions
    [k·batch_size, (k+1)·batch_size): micro-batch m of rank r takes the b positions from ``((k·A + m)·world + r)·b``
    with A micro-batches per step and ``b = batch_size / (A·world)``. So the union over ranks and micro-batches does not
    depend on either. Flips are None without ``flip``.

    ``start()`` gives, at the beginning of each iteration, the micro-batches that every rank has consumed.
    Raises ``UserError`` where ``batch_size`` does not divide.
    """

    def __init__(
        self,
        order: Order,
        batch_size: int,
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
        self._order, self._flip = order, flip
        self._world, self._rank, self._start = world, rank, start

    def positions(self, first: int, last: int) -> Selection:
        """Samples (last − first,) int64 and mirror bits at the positions [first, last) of the global stream."""
        indices, flips = [], []
        while first < last:
            samples, bits = self._order.part(*divmod(first, self._order.size))
            indices.append(samples[: last - first])
            flips.append(bits[: last - first])
            first += len(indices[-1])
        return torch.cat(indices), torch.cat(flips) if self._flip else None

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
