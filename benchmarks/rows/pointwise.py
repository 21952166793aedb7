"""A convolution of one pixel, forward and backward: torch's, and products of matrices."""

import torch
import torch.nn.functional as F

from oboro.model.pointwise import products
from rows.row import Contender, Row

SHAPE, CHANNELS = (16, 256, 32, 32), 128  # what comes in, and the channels of what comes out
OPERATIONS = 3 * 2 * 16 * 32 * 32 * 256 * 128
row = Row("1×1 convolution of 256 channels to 128 at 32 × 32, batch 16, bfloat16", 20, OPERATIONS, torch.bfloat16)


@row.contender
def torchs_own() -> Contender:
    return called(F.conv2d)


@row.contender
def oboro() -> Contender:
    return called(products)


def called(f) -> Contender:
    g = torch.Generator().manual_seed(0)
    shapes = SHAPE, (CHANNELS, SHAPE[1], 1, 1), (CHANNELS,)
    parts = [torch.randn(shape, generator=g).bfloat16().requires_grad_() for shape in shapes]

    def call() -> None:
        out = f(*parts)
        torch.autograd.grad(out, parts, torch.ones_like(out))

    return call
