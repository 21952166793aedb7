"""Work that goes on in smaller parts where memory runs out.

Only for rows that do not depend on their companions: then parts give what the whole would, but for the rounding that
the shape of a batch decides (1e-7).
"""

import gc
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from oboro.base.errors import UserError, first_line, is_out_of_memory

log = logging.getLogger(__name__)
T = TypeVar("T")
I = TypeVar("I")  # noqa: E741


class Parts:
    """``parts(f, items)``: what ``f`` makes of ``items``, all at once or, once memory has run out, in parts: of half as
    many, again and again, down to one.

    Each process halves for itself: nothing in ``f`` may wait for other ranks, so weights in shards have to be
    ``oboro.base.shards.together``. Later calls keep to the size that fitted;
    a line says it. ``most`` is that size, None as long as nothing had to be halved. Raises ``UserError`` where there is
    no memory for one.
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def __call__(self, f: Callable[[list[I]], T], items: Sequence[I]) -> list[T]:
        made: list[T] = []
        left, halved = list(items), False
        while left:
            part = left[: self.most or len(left)]
            try:
                made.append(f(part))
                left = left[len(part) :]
                fits = True
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise UserError(f"memory does not do for one sample: {first_line(error)}; {REMEDY}") from error
                self.most, fits, halved = (len(part) + 1) // 2, False, True
            if not fits:  # outside of the handler, which holds on to what the failed call has allocated
                release()
        if halved:
            log.warning(
                "memory ran out with %d at once, so %d at a time are computed; the same values but for rounding, 1e-7",
                len(items),
                self.most,
            )
        return made

    def rows(self, f: Callable[[list[I]], Tensor], items: Sequence[I]) -> Tensor:
        """The rows (n, ...) that ``f`` makes of n items, one each."""
        made = self(f, items)
        return made[0] if len(made) == 1 else torch.cat(made)


def rows_of(batch: Mapping[str, Any], rows: list[int]) -> dict[str, Any]:
    """The ``rows`` of a batch of tensors and lists."""
    return {key: value[rows] if torch.is_tensor(value) else [value[i] for i in rows] for key, value in batch.items()}


REMEDY = "use a device with more memory, or free what others hold of it"


def release() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def usage(device: torch.device) -> str:
    """``of 23.6 GB on cuda:0, at most 21.9 GB were in use``."""
    if device.type == "cuda":
        whole, peak = torch.cuda.get_device_properties(device).total_memory, torch.cuda.max_memory_allocated(device)
    else:
        whole, peak = machine()
    return f"of {whole / 1e9:.1f} GB on {device}, at most {peak / 1e9:.1f} GB were in use by this process"


def machine() -> tuple[int, int]:
    """Bytes of memory of the machine, and the most that this process has had; 0 where the system does not say."""
    try:
        import resource  # not on Windows
    except ImportError:
        return 0, 0
    unit = 1 if sys.platform == "darwin" else 1024
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole, unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
