"""Copies of what training goes on to change, for those who read it later."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def staged(node: T) -> T:
    """A copy of nested containers with their tensors on the CPU, in memory of its own; tensors that share memory share
    it in the copy, too. Those without memory (``meta``) stay; shards have to be ``staged_tensors``."""
    memo: dict[int, Any] = {}
    storages: dict[int, torch.UntypedStorage] = {}
    every = list(_tensors(node))
    for tensor in every:
        memo[id(tensor)] = tensor if tensor.is_meta else _like(tensor, storages)
    _arrived(every)
    return copy.deepcopy(node, memo)


def _like(tensor: Tensor, storages: dict[int, torch.UntypedStorage]) -> Tensor:
    """``tensor`` upon the copy of its storage, which is made where ``storages`` has none."""
    held = tensor.untyped_storage()
    if held._cdata not in storages:
        whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(held)
        storages[held._cdata] = _on_the_cpu(whole).untyped_storage()
    own = torch.empty(0, dtype=tensor.dtype)
    return own.set_(storages[held._cdata], tensor.storage_offset(), tensor.shape, tensor.stride())


def staged_tensors(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copies of ``tensors`` on the CPU, each in memory of its own."""
    every = list(tensors)
    copies = [_on_the_cpu(tensor.detach()) for tensor in every]
    _arrived(every)
    return copies


def _on_the_cpu(tensor: Tensor) -> Tensor:
    """A copy, which may be under way: pages that stay in place are read by the device without the processor."""
    whole = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return whole.copy_(tensor, non_blocking=True)


def _arrived(tensors: Iterable[Tensor]) -> None:
    for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
        torch.cuda.current_stream(device).synchronize()


def _tensors(node: Any) -> Iterator[Tensor]:
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, dict):
        for child in node.values():
            yield from _tensors(child)
    elif isinstance(node, list | tuple | set):
        for child in node:
            yield from _tensors(child)
