"""How often networks are evaluated."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def counted(networks: Sequence[nn.Module]) -> Iterator[Callable[[], int]]:
    """How often ``networks`` are evaluated inside the context, in images: guidance and samplers hide nothing."""
    images = 0

    def count(module: nn.Module, inputs: tuple, output: Any) -> None:
        nonlocal images
        images += len(inputs[0])

    hooks = [network.register_forward_hook(count) for network in networks]
    try:
        yield lambda: images
    finally:
        for hook in hooks:
            hook.remove()
