"""Whether arrays that are going to be made fit into the memory of this machine."""

import os
from math import prod

from oboro.base.errors import UserError


def of_machine() -> int:
    """Bytes of main memory, used or not."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_fits_memory(key: str, count: int, shape: tuple[int, ...], itemsize: int, noun: str, most: int = 0) -> None:
    """Raises ``UserError`` where ``key=count`` samples of ``shape`` and ``itemsize`` bytes a number are more than
    ``most`` bytes, by default the memory of this machine: they would end in a kill by the system."""
    size, most = prod(shape) * itemsize * count, most or of_machine()
    if size > most:
        raise UserError(
            f"{key}={count} {noun} of {'×'.join(map(str, shape))} are {amount(size)} and the memory is {amount(most)}; "
            f"set {key}={most // (2 * prod(shape) * itemsize)} or less."
        )


def amount(size: int) -> str:
    """``78 GB``."""
    return f"{size / 1e9:,.3g} GB"
