"""Attention, forward and backward: torch's own function, and the products that train on a CPU."""

import torch
import torch.nn.functional as F

from oboro.model.attention import by_products
from rows.row import Contender, Row

SHAPE = (64, 4, 64, 32)  # samples, heads, tokens, width of a head
OPERATIONS = 3 * 4 * 64 * 4 * 64 * 64 * 32
row = Row("attention and its gradients, 64 × 4 heads of 64 tokens × 32, bfloat16", 30, OPERATIONS, torch.bfloat16)


@row.contender
def torchs_own() -> Contender:
    return called(F.scaled_dot_product_attention)


@row.contender
def oboro() -> Contender:
    return called(by_products)


def called(attention) -> Contender:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(SHAPE, generator=g).bfloat16().requires_grad_() for _ in range(3))

    def call() -> None:
        out = attention(q, k, v)
        torch.autograd.grad(out, (q, k, v), torch.ones_like(out))

    return call
