"""Whether arrays that are going to be made fit into the memory of this machine."""

from math import prod

from oboro.base.errors import UserError
from oboro.base.memory import machine


def check_fits_memory(
    key: str, count: int, shape: tuple[int, ...], itemsize: int, noun: str, share: float = 1.0
) -> None:
    """Raises ``UserError`` where of ``key=count`` samples of ``shape`` and ``itemsize`` bytes a number this process's
    ``share`` is more than the memory of the machine: the system would kill it."""
    one, whole = prod(shape) * itemsize * share, machine()[0]
    if one * count > whole > 0:
        raise UserError(
            f"{key}={count} {noun} of {'×'.join(map(str, shape))} take {amount(one * count)} and the memory is "
            f"{amount(whole)}; set {key}={int(whole / (2 * one))} or less."
        )


def amount(size: float) -> str:
    """``78 GB``, ``2.9 MB``."""
    return f"{size / 1e9:,.3g} GB" if size >= 1e9 else f"{size / 1e6:,.3g} MB"
