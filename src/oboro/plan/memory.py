"""Bytes of what a training step holds."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes, of each tensor once."""
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())


def state_size(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of what an optimizer that has stepped keeps for its weights."""
    return size(value for kept in optimizer.state.values() for value in kept.values() if torch.is_tensor(value))


@dataclass
class Activations:
    """What a forward pass keeps for the backward pass: ``bytes``, each storage once, weights apart."""

    storages: dict[int, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(self.storages.values())

    @contextmanager
    def recorded(self, module: nn.Module) -> Iterator[None]:
        """All that happens inside; ``module`` has the weights."""
        weights = {w.untyped_storage().data_ptr() for w in (*module.parameters(), *module.buffers())}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                self.storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
