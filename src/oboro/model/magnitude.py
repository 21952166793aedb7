"""Layers that keep the magnitude of activations: Karras et al. 2024 (arXiv:2312.02696).

The magnitude of a vector of n entries is its root mean square. Each function and layer has outputs of magnitude 1 when
its inputs are independent and of magnitude 1. No layer has a bias, and no weight counts by its length: rows are
normalised where they are used.
"""

from math import pi, prod, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.shards import local
from oboro.model.attention import attend
from oboro.model.layers import convolution, count_heads

SILU_MAGNITUDE = 0.5964692111227134  # sqrt(E[silu(z)²]) for standard normal z


def pixel_norm(x: Tensor, dim: int = 1) -> Tensor:
    """x / (1e-4 + sqrt(mean over ``dim`` of x²)), in single precision at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide / (1e-4 + wide.square().mean(dim, keepdim=True).sqrt())).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """silu(x) / sqrt(E[silu(z)²]) (eq. 81)."""
    return F.silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """((1 - t) a + t b) / sqrt((1 - t)² + t²) (eq. 88)."""
    norm = sqrt((1 - t) ** 2 + t**2)
    return a * ((1 - t) / norm) + b * (t / norm)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Channels of a (B, N_a, ...) and of b (B, N_b, ...), the two contributing as (1 - t)² to t² to what follows.

    sqrt((N_a + N_b) / ((1 - t)² + t²)) [(1 - t) / sqrt(N_a) a, t / sqrt(N_b) b] (eq. 103).
    """
    n_a, n_b = a.shape[1], b.shape[1]
    scale = sqrt((n_a + n_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (scale * (1 - t) / sqrt(n_a)), b * (scale * t / sqrt(n_b))], 1)


def unit_rows(weight: Tensor) -> Tensor:
    """Each ``weight[i]`` divided by its length, in single precision at least (eq. 47).

    A weighted sum of independent numbers of variance 1 has variance 1 then, and the gradient with respect to
    ``weight[i]`` is orthogonal to it.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    length = torch.linalg.vector_norm(wide, dim=tuple(range(1, weight.ndim)), keepdim=True)
    return wide / length.clamp_min(torch.finfo(wide.dtype).tiny)


@torch.compiler.disable  # weights are not written inside of a compiled graph
@torch.no_grad()
def normalise_weights(module: nn.Module) -> None:
    """Sets every ``weight[i]`` of two dimensions and more to magnitude 1: forced weight normalisation (eq. 66).

    The function of ``module`` stays what it was. Without it weights grow, since gradients are orthogonal to them, and
    the effective learning rate falls. Of a weight in shards each rank has whole rows.
    """
    for p in module.parameters():
        if p.ndim > 1:
            # Through .data, since autograd must not take this for a change: a graph that another call of the module
            # recorded is still right, up to rounding.
            rows = local(p.data)
            rows.copy_(unit_rows(rows) * sqrt(p[0].numel()))


class MPFourier(nn.Module):
    """c (B,) ↦ sqrt(2) cos(2π (f_k c + phi_k)) (B, n), with f_k ~ N(0, 1) and phi_k ~ U(0, 1) (eq. 75).

    Drawn once and stored with the weights.
    """

    def __init__(self, n: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(n))
        self.register_buffer("phases", torch.rand(n))

    def forward(self, c: Tensor) -> Tensor:
        wide = c.to(torch.promote_types(c.dtype, torch.float32))
        angle = 2 * pi * (wide[:, None] * self.frequencies + self.phases)
        return (sqrt(2) * angle.cos()).to(c.dtype)


class MPLinear(nn.Module):
    """x (B, n) ↦ gain x wᵀ with rows w_i of length 1 (eq. 47)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        return F.linear(x, (gain * unit_rows(self.weight)).to(x.dtype))


class MPConv(nn.Module):
    """gain (x * w) over ``dims`` axes with filters w_i of length 1, and zeros around (eq. 47). ``kernel`` is odd."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dims: int = 2):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *[kernel] * dims))
        self.dims = dims

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        return convolution(self.dims)(x, (gain * unit_rows(self.weight)).to(x.dtype), padding="same")


class MPLabel(nn.Module):
    """Label (B,) in 0 … K - 1 ↦ (B, n): column ``label`` of weights whose rows have magnitude 1 over the K classes.

    That is the MPLinear of sqrt(K) times the one-hot label.
    """

    def __init__(self, num_classes: int, n: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n, num_classes))

    def forward(self, label: Tensor) -> Tensor:
        return F.embedding(label, unit_rows(self.weight).T * sqrt(self.weight.shape[1]))


class MPNumber(nn.Module):
    """angle (B,) in [0, 1] ↦ gain MPLinear(MPFourier(4 angle)) (B, dim) with a learned ``gain`` that starts at 0."""

    def __init__(self, n: int, dim: int):
        super().__init__()
        self.fourier = MPFourier(n)
        self.linear = MPLinear(n, dim)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, angle: Tensor) -> Tensor:
        return self.linear(self.fourier(4 * angle), self.gain)


class CosineAttention(nn.Module):
    """mp_sum(x, proj(softmax(q kᵀ / sqrt(d)) v), balance) over all pixels, with q, k and v of magnitude 1.

    Heads have ``head_channels``, all of them when 0. Raises ``UserError`` where those leave a rest.
    """

    def __init__(self, channels: int, head_channels: int, balance: float, dims: int = 2):
        super().__init__()
        self.heads = count_heads(channels, head_channels)
        self.balance = balance
        self.qkv = MPConv(channels, 3 * channels, 1, dims)
        self.proj = MPConv(channels, channels, 1, dims)

    def forward(self, x: Tensor) -> Tensor:
        b, c, *size = x.shape
        qkv = self.qkv(x).view(b, 3, self.heads, c // self.heads, prod(size))
        q, k, v = pixel_norm(qkv, 3).transpose(-1, -2).unbind(1)
        h = attend(q, k, v).transpose(-1, -2)
        return mp_sum(x, self.proj(h.reshape(b, c, *size)), self.balance)
