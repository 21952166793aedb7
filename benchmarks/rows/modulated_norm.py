"""GroupNorm and what the embedding does after it, forward and backward: in two passes, and in one."""

import torch

from oboro.model.layers import group_norm, modulated, over_space
from rows.row import Contender, Row

SHAPE = (32, 16, 28, 28)  # of the first run's widest maps
row = Row("norm, scale and shift and their gradients, 32 × 16 × 28 × 28, bfloat16", 200, dtype=torch.bfloat16)


@row.contender
def written_out() -> Contender:
    return called(lambda norm, h, scale, shift: torch.addcmul(over_space(shift, h), norm(h), 1 + over_space(scale, h)))


@row.contender
def oboro() -> Contender:
    return called(modulated)


def called(f) -> Contender:
    g = torch.Generator().manual_seed(0)
    h, e = (torch.randn(shape, generator=g).bfloat16().requires_grad_() for shape in (SHAPE, (SHAPE[0], 2 * SHAPE[1])))
    norm = group_norm(SHAPE[1])

    def call() -> None:
        out = f(norm, h, *e.chunk(2, 1))
        torch.autograd.grad(out, (h, e, *norm.parameters()), torch.ones_like(out))

    return call
