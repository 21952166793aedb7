"""Weights of which each rank holds a part (FSDP2, arXiv:2304.11277), and what becomes of them: gradients, averages.

Whatever is not sharded passes unchanged, the same bits. What says "all ranks" exchanges data where there are shards.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from oboro.base import distributed


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of ``tensor``, the same memory; without gradients where it is a shard."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def any_shard(tensors: Iterable[Tensor]) -> bool:
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def sharded_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole ``tensor``, equal on all ranks, laid out as ``like`` is; its part is a copy."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    there = tensor.detach().to(like.device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None).clone()


def gathered(node: Any, keep: bool) -> Any:
    """Nested containers with whole tensors, on the CPU, in place of shards. All ranks; those without ``keep`` get
    shards as they are."""
    if isinstance(node, DTensor):
        full = node.full_tensor().detach()
        return full.cpu() if keep else node
    if isinstance(node, Mapping):
        kind = OrderedDict if isinstance(node, OrderedDict) else dict
        return kind((key, gathered(child, keep)) for key, child in node.items())
    return type(node)(gathered(child, keep) for child in node) if type(node) in (list, tuple) else node


def rows(tensor: Tensor) -> tuple[Tensor, int]:
    """What this rank holds of ``tensor``, of its first axis, and the first row of that; all of it where it is whole."""
    if not isinstance(tensor, DTensor):
        return tensor.detach(), 0
    own = local(tensor.detach())
    (chunk,) = tensor.__create_chunk_list__()
    if tuple(chunk.sizes[1:]) != tuple(tensor.shape[1:]):
        raise ValueError(f"shards of a tensor {tuple(tensor.shape)} that are no rows of it")
    return own, int(chunk.offsets[0])


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all ``gradients`` together, as ``clip_grad_norm_`` computes it. All ranks."""
    if not any_shard(gradients):
        return torch.nn.utils.get_total_norm(gradients)
    parts = [local(g) for g in gradients if isinstance(g, DTensor)]
    rest = [g for g in gradients if not isinstance(g, DTensor)]
    square = torch.nn.utils.get_total_norm(parts).double().square()
    square = distributed.mean(square) * distributed.world_size()
    if rest:
        square = square + torch.nn.utils.get_total_norm(rest).double().square()
    return square.sqrt().float()


def clip(parameters: Sequence[nn.Parameter], most: float, norm: Tensor) -> None:
    """Gradients of the norm ``norm`` times min(1, most / norm), in place."""
    if not any_shard(parameters):
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([local(p.grad) for p in parameters if p.grad is not None], factor)


def average_the_rest(parameters: Sequence[nn.Parameter]) -> None:
    """The gradients of parameters that are whole become means over the ranks, as those of shards are already. All
    ranks."""
    rest = [p.grad for p in parameters if p.grad is not None and not isinstance(p, DTensor)]
    if rest:
        means = distributed.mean(torch.cat([g.flatten().float() for g in rest]))
        for gradient, mean in zip(rest, means.split([g.numel() for g in rest]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def shard(network: nn.Module, mesh: Any, kept: Iterable[nn.Parameter] = ()) -> None:
    """Let each rank of ``mesh`` hold a part of every parameter of ``network`` that has axes; one without stays whole,
    and so do those that are ``kept`` and what came trained (``frozen`` of the network, by name).

    What is gathered at a time, for a forward or a backward pass, is one item of the network's lists of modules, or
    another of its children: each has to be called itself (``stage(x)``), as the network has. Names stay.
    """
    if isinstance(network, FSDPModule):  # of a run that went back to a checkpoint
        return
    frozen = list(getattr(network, "frozen", {}).values())
    whole = {*kept, *(p for part in frozen for p in part.parameters())}
    whole |= {p for p in network.parameters() if p.ndim == 0}
    for part in (*(unit for unit in units(network) if unit not in frozen), network):
        fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=whole)


def units(network: nn.Module) -> Iterator[nn.Module]:
    """The items of lists of modules and the other children, where they have parameters; of a child that is not called
    itself (``in_parts``) its own."""
    for child in network.children():
        if isinstance(child, nn.ModuleList) or getattr(child, "in_parts", False):
            yield from units(child)
        elif next(child.parameters(), None) is not None:
            yield child


def apart(module: nn.Module) -> None:
    """Each rank holds its part, and no more, of what ``shard`` has shared out."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@contextmanager
def together(module: nn.Module) -> Iterator[None]:
    """Inside the context each rank holds all weights, for any number of forward passes of its own without gradients.
    All ranks enter; what is written to weights meanwhile is lost."""
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    try:
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def agreed(find: Callable[[], str | None], tensors: Iterable[Tensor]) -> str | None:
    """What ``find()`` finds in the parts that this rank has, or else another in its own. All ranks."""
    found = find()
    if not any_shard(tensors):
        return found
    return next((other for other in distributed.from_all(found) if other is not None), None)
