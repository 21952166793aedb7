"""Draws for the rows of a batch that one micro-batch of one rank has: together they are those of one process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Self

import torch
from torch import Tensor

from oboro.base.errors import UserError

# Training noise of a batch that several ranks or micro-batches share: that of one process, or new in each of them.
Noise = Literal["global", "per_rank"]


class BatchGenerator(torch.Generator):
    """The generator of a micro-batch that also knows the batch that it is part of.

    ``rand``, ``randn`` and ``randperm`` draw for all ``size`` samples of the batch from one stream, the same on every
    rank and for every micro-batch, and keep the ``rows`` (b,) of this one. That is what makes them the draws of one
    process bit for bit: a normal number of torch's depends on how many are drawn with it. It costs ``size`` / b times
    the draws.

    torch's own functions take it for what it is beside that, a generator with the seed ``own``: what they draw is new
    on every rank and in every micro-batch, and depends on how many there are. It has to be another seed than that of
    ``whole``, or both would give the same numbers to different purposes.
    """

    def __new__(cls, whole: torch.Generator, own: int, rows: Tensor, size: int) -> Self:
        return super().__new__(cls, whole.device)  # type: ignore[call-arg]  # torch declares __init__ alone

    def __init__(self, whole: torch.Generator, own: int, rows: Tensor, size: int):
        self.manual_seed(own)
        self.whole = whole
        self.rows = rows
        self.size = size


def randn(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard normal numbers of ``shape`` (b, ...), float32 on the generator's device."""
    return _drawn(torch.randn, shape, generator)


def rand(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Numbers of ``shape`` (b, ...), uniform in [0, 1), float32 on the generator's device."""
    return _drawn(torch.rand, shape, generator)


def randperm(n: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """What a random permutation of all samples of the batch puts in the place of ``n`` own ones, (n,) int64, and the
    number of all."""
    size = generator.size if isinstance(generator, BatchGenerator) else n
    return _drawn(lambda shape, **draws: torch.randperm(*shape, **draws), (n,), generator), size


def _drawn(draw: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator) -> Tensor:
    if not isinstance(generator, BatchGenerator):
        return draw(tuple(shape), generator=generator, device=generator.device)
    check_rows(shape[0], generator.rows)
    drawn = draw((generator.size, *shape[1:]), generator=generator.whole, device=generator.device)
    return drawn[generator.rows]


def check_rows(n: int, rows: Tensor) -> None:
    """Raises ``UserError`` for draws of a number of samples that the micro-batch does not have."""
    if n != len(rows):
        raise UserError(
            f"{n} samples are drawn for, and the data module says that {len(rows)} of the batch are in this "
            "micro-batch; correct its rows(), or set task.noise=per_rank."
        )


@contextmanager
def replayed(device: torch.device) -> Iterator[None]:
    """After the block torch's global generators, of the CPU and of ``device``, are as they were before it: what follows
    draws the same dropout masks."""
    apple = torch.mps.get_rng_state() if device.type == "mps" else None  # which torch's own context does not know
    devices = [] if device.type in ("cpu", "mps") else [device]
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        yield
    if apple is not None:
        torch.mps.set_rng_state(apple)
