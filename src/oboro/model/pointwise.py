"""Convolutions with a kernel of one pixel."""

import torch
from torch import Tensor, nn


def plain(x: Tensor) -> bool:
    """Whether ``x`` is computed with here and now, on a CPU and in the order of its memory: a compiler does better with
    what is written plainly, and an exported graph knows no batch size."""
    rewritten = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return x.device.type == "cpu" and x.is_contiguous() and x.numel() > 0 and not rewritten


def products(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x_p + b at each pixel p for x (B, C, ...), weight (C', C, 1, ...) and bias (C',): (B, C', ...)."""
    rows, columns = weight.flatten(1).expand(len(x), -1, -1), x.flatten(2)
    out = torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias[:, None], rows, columns)
    return out.view(len(x), len(weight), *x.shape[2:])


class Pointwise1d(nn.Conv1d):
    """``nn.Conv1d`` of one pixel, by products of matrices where that is faster (``products``)."""

    def forward(self, input: Tensor) -> Tensor:
        return products(input, self.weight, self.bias) if plain(input) else super().forward(input)


class Pointwise2d(nn.Conv2d):
    """``nn.Conv2d`` of one pixel, likewise: a CPU's convolution brings pixels into another order and back, and takes
    two to three times as long in training."""

    def forward(self, input: Tensor) -> Tensor:
        return products(input, self.weight, self.bias) if plain(input) else super().forward(input)


class Pointwise3d(nn.Conv3d):
    """``nn.Conv3d`` of one pixel, likewise."""

    def forward(self, input: Tensor) -> Tensor:
        return products(input, self.weight, self.bias) if plain(input) else super().forward(input)
