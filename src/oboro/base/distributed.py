"""What ranks share; the only module that imports ``torch.distributed``.

Evaluation works in fixed chunks of sample ids. Chunk k belongs to rank k mod world, every chunk has the same shape
(the last one is padded by repeating its last id), and results are put in the order of their ids. So a value does not
depend, bit for bit, on the number of ranks: batch *shapes* change convolutions by 1e-7, companions in a batch do not.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from oboro.base import interrupt
from oboro.base.errors import UserError
from oboro.base.memory import Parts
from oboro.base.precision import WITHOUT_FLOAT64

T = TypeVar("T")
WITHIN = Path(dist.__file__).parent  # what is raised from here is an error of a collective
BACKENDS = re.compile(r"gloo|nccl|\bucc\b|xccl|hccl|ProcessGroup|TCPStore", re.IGNORECASE)


class RankFailed(RuntimeError):
    """Another rank has failed, so this one cannot go on."""


def is_collective_error(error: BaseException) -> bool:
    """Whether it only says that another rank is gone, or has failed.

    torch raises a type of its own for some of them, and a plain ``RuntimeError`` for the rest: those of a call of
    ``torch.distributed`` are known by their place, those within the backward pass by the backend that they name.
    """
    if isinstance(error, RankFailed | dist.DistError):
        return True
    return isinstance(error, RuntimeError) and (_within_distributed(error) or BACKENDS.search(str(error)) is not None)


def _within_distributed(error: BaseException) -> bool:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and Path(place.tb_frame.f_code.co_filename).parent.is_relative_to(WITHIN)


def meeting_point(patience: float) -> Any:
    """A connection to the store at which the ranks have met, of one's own: any thread may use it. What is not
    there is waited for ``patience`` seconds. None where there are no ranks, or none such."""
    if world_size() == 1 or "MASTER_PORT" not in os.environ:
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    patient = timedelta(seconds=patience)
    return dist.TCPStore(  # type: ignore[attr-defined]
        address, port, is_master=False, timeout=patient, wait_for_workers=False
    )


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def chunks(n: int, size: int) -> Iterator[list[int]]:
    """The id chunks of this rank among 0..n-1, each of exactly ``size`` ids; all ranks get the same number of chunks.

    Ids past the end are -1: no sample, or the padding of the last chunk.
    """
    world = world_size()
    rounds = -(-n // (size * world))
    for k in range(rank(), rounds * world, world):
        yield [i if i < n else -1 for i in range(k * size, (k + 1) * size)]


def gather_rows(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """``ids`` (B,) and ``rows`` (B, ...) of all ranks, those with id < 0 dropped, sorted by id.

    Every rank must call it and every rank gets the same answer; B may differ between ranks.
    """
    if world_size() > 1:
        sizes = [torch.zeros(1, dtype=torch.int64, device=ids.device) for _ in range(world_size())]
        dist.all_gather(sizes, torch.tensor([len(ids)], device=ids.device))
        longest = int(max(sizes))
        padding = longest - len(ids)
        ids = torch.cat([ids, ids.new_full((padding,), -1)])
        rows = torch.cat([rows, rows.new_zeros(padding, *rows.shape[1:])])
        all_ids = [torch.empty_like(ids) for _ in range(world_size())]
        all_rows = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(all_ids, ids.contiguous())
        dist.all_gather(all_rows, rows.contiguous())
        ids, rows = torch.cat(all_ids), torch.cat(all_rows)
    kept = ids >= 0
    ids, rows = ids[kept], rows[kept]
    order = torch.argsort(ids)
    return ids[order], rows[order]


def gather_with_gradients(rows: Tensor) -> Tensor:
    """``rows`` (B, ...) of all ranks, (world B, ...), in the order of the ranks; B is the same on all.

    A loss on one rank that depends on another's rows sends gradients back: that of ``rows`` is the sum over ranks.
    The mean of the ranks' gradients, which DDP takes, is then that of the mean of their losses.
    """
    return _Gather.apply(rows) if world_size() > 1 else rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]


def mean(values: Tensor) -> Tensor:
    """The mean of ``values`` over ranks, of equal shape on all; the same bits on all. No gradients."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total / world_size()


def from_all(value: T) -> list[T]:
    """What every rank gives, of plain values, in the order of the ranks."""
    values: list[T | None] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return cast(list[T], values)


def map_samples(
    n: int,
    size: int,
    f: Callable[[list[int]], Tensor],
    device: torch.device,
    done: Callable[[int], None] | None = None,
    first: int = 0,
    everywhere: bool = True,
) -> Tensor:
    """Rows ``f(ids)`` of all samples ``first`` .. ``first + n - 1`` in order, on the CPU of every rank, or of rank 0
    alone and none on the others unless ``everywhere``.

    ``f`` gets exactly ``size`` ids and returns one row for each; where memory runs out, fewer (``Parts``), on the rank
    where it does. Ranks meet after each chunk, so none waits longer
    than a chunk takes. ``done(k)`` gets how many samples are finished. Raises ``RuntimeError`` if an id is missing;
    if ``f`` raises on one rank, that rank raises its error and the others a ``RankFailed`` that quotes it. A signal
    that waits ends it after a chunk, on all ranks.
    """
    seen_ids, rows, parts = [], [], Parts()
    finished = 0
    for ids in chunks(n, size):
        last = max(max(ids), 0)
        with together(ends=True):
            chunk = parts.rows(f, [first + (i if i >= 0 else last) for i in ids])
        chunk_ids, chunk_rows = gather_rows(torch.tensor(ids, device=device), chunk.to(device))
        seen_ids.append(chunk_ids.cpu())
        rows.append(chunk_rows.cpu() if everywhere or rank() == 0 else chunk_rows[:0].cpu())
        finished += len(chunk_ids)
        if done:
            done(finished)
    all_ids, order = torch.sort(torch.cat(seen_ids))
    if not torch.equal(all_ids, torch.arange(n)):
        raise RuntimeError(f"expected the sample ids 0..{n - 1} once each, got {len(all_ids)} ids")
    return torch.cat(rows)[order] if everywhere or rank() == 0 else torch.cat(rows)


@contextmanager
def together(ends: bool = False) -> Iterator[None]:
    """A block that all ranks run and after which they meet: if it fails on one, it fails on all, with that error.

    Otherwise the others would wait in their next collective for a rank that has left, and a time-out would be all that
    is seen. The failing rank raises its own exception, the others ``RankFailed``, or the same ``UserError``. With
    ``ends`` a signal that waits on any rank (``oboro.base.interrupt``) raises ``Interrupted`` on all of them after the
    block.
    """
    error: Exception | None = None
    number = 0
    try:
        yield
    except interrupt.Interrupted as caught:
        number = caught.number
    except Exception as caught:
        error = caught
    number = number or (interrupt.held() if ends else 0)
    if world_size() > 1:
        mistake = isinstance(error, UserError)
        text = str(error) if mistake else f"{type(error).__name__}: {error}"
        outcomes = from_all((None if error is None else (mistake, text), number))
        number = max(other for _, other in outcomes)
        failed = next(((r, *failure) for r, (failure, _) in enumerate(outcomes) if failure), None)
        if error is None and failed is not None:
            culprit, mistake, text = failed
            raise UserError(text) if mistake else RankFailed(f"rank {culprit} failed: {text}")
    if error is not None:
        raise error
    if number:
        interrupt.end(number)


def group_beside() -> Any:
    """A group of all ranks for what another thread does between processors, None for one process alone. All ranks."""
    return dist.new_group(backend="gloo") if world_size() > 1 else None


class Agreement:
    """What any rank wants, known to all of them at the same time. Every rank calls every method equally often.

    Wishes are small whole numbers, 0 for none; of several the largest counts. They travel between processors, whatever
    the ranks compute on: no accelerator is waited for.
    """

    def __init__(self) -> None:
        self._group: Any = group_beside()
        self._sent: tuple[Any, Tensor] | None = None

    def next(self, *wishes: int) -> list[int]:
        """What was wanted at the last call, while that of now is under way: nobody waits for another rank. One process
        alone gets what it wants now."""
        if self._group is None:
            return list(wishes)
        before = self._sent
        numbers = torch.tensor(wishes)
        self._sent = dist.all_reduce(numbers, dist.ReduceOp.MAX, self._group, async_op=True), numbers
        if before is None:
            return [0] * len(wishes)
        before[0].wait()
        return before[1].tolist()

    def now(self, *wishes: int) -> list[int]:
        """What is wanted now; ranks wait for each other."""
        if self._group is None:
            return list(wishes)
        numbers = torch.tensor(wishes)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, self._group)
        return numbers.tolist()

    def close(self) -> None:
        """Wait for what is under way, but not for a rank that is gone."""
        if self._sent is not None:
            with suppress(RuntimeError):
                self._sent[0].wait(timedelta(seconds=1))
            self._sent = None


def from_first(f: Callable[[], T], device: torch.device | str = "cpu") -> T:
    """``f()`` of rank 0, on every rank. An error in it is raised on all, and a signal that waits ends all after it.

    ``f`` runs on no other rank, and meanwhile these work on what it gives to ``share``, each on its ``device``.
    """
    global _device
    result: list[T | None] = [None]
    with together(ends=True):
        if rank() > 0:
            _work(torch.device(device))
        else:
            _device = torch.device(device)
            try:
                result[0] = f()
            finally:
                _device = None
                _no_more_work()
    if world_size() > 1:
        dist.broadcast_object_list(result, src=0)
    return cast(T, result[0])


_device: torch.device | None = None  # of rank 0 inside of ``from_first``


def share(f: Callable[..., Sequence[Tensor]], items: Sequence[Any], *tensors: Tensor) -> list[list[Tensor]]:
    """``f(item, *tensors)`` of every item, in order, on the CPU: rank r computes the items k with k mod world = r.

    For a caller inside of ``from_first``; elsewhere it computes all by itself on the CPU. ``f`` is a function of a
    module, ``items`` are small and plain, and ``tensors`` lie on the device of the rank while it computes. Raises
    ``RankFailed`` where ``f`` fails on another rank, and inside of ``from_first`` ``Interrupted`` where a signal waits
    on any.
    """
    if _device is not None:
        interrupt.check()
    if _device is None or world_size() == 1:
        return _computed(f, items, tensors, _device or torch.device("cpu"))
    dist.broadcast_object_list([(f, items, [(t.shape, t.dtype) for t in tensors])], src=0)
    place = _device if dist.get_backend() == "nccl" else torch.device("cpu")
    sent = [t.detach().to(place).contiguous() for t in tensors]
    for tensor in sent:
        dist.broadcast(tensor, 0)
    own: list[list[Tensor]] | Exception
    try:
        own = _computed(f, items[:: world_size()], sent, _device)
    except Exception as error:
        own = error
    parts, number = _collected(own)
    if isinstance(own, Exception):
        raise own
    if number:
        interrupt.end(number)
    for r, part in enumerate(parts):
        if isinstance(part, str):
            raise RankFailed(f"rank {r} failed: {part}")
    return [parts[k % world_size()][k // world_size()] for k in range(len(items))]


def _no_more_work() -> None:
    if world_size() > 1:
        dist.broadcast_object_list([None], src=0)


def _work(device: torch.device) -> None:
    """What a rank other than 0 does inside of ``from_first``."""
    while True:
        job: list[Any] = [None]
        dist.broadcast_object_list(job, src=0)
        if job[0] is None:
            return
        f, items, shapes = job[0]
        place = device if dist.get_backend() == "nccl" else torch.device("cpu")
        tensors = [torch.empty(shape, dtype=dtype, device=place) for shape, dtype in shapes]
        for tensor in tensors:
            dist.broadcast(tensor, 0)
        own: list[list[Tensor]] | Exception
        try:
            own = _computed(f, items[rank() :: world_size()], tensors, device)
        except Exception as error:
            own = error
        _collected(own)


def _collected(own: list[list[Tensor]] | Exception) -> tuple[list[Any], int]:
    """What every rank has computed, on rank 0, the text of an error in place of what there is not; and the signal that
    waits on any."""
    parts: list[Any] = [(None, 0)] * world_size()
    given = f"{type(own).__name__}: {own}" if isinstance(own, Exception) else own
    dist.gather_object((given, interrupt.held()), parts if rank() == 0 else None, dst=0)
    return [part for part, _ in parts], max(number for _, number in parts)


def _computed(
    f: Callable[..., Sequence[Tensor]], items: Sequence[Any], tensors: Sequence[Tensor], device: torch.device
) -> list[list[Tensor]]:
    place = torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device
    placed = [tensor.to(place) for tensor in tensors]
    return [[part.cpu() for part in f(item, *placed)] for item in items]
