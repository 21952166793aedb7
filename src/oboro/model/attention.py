"""Attention, by the way that is the fastest for where and how it is computed."""

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import has_torch_function

MOST = 512**2  # queries × keys: beyond it torch's own is as fast and does not keep a map of that size


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(q kᵀ / sqrt(d)) v (B, H, N, d) of q (B, H, N, d), k and v (B, H, L, d); ``mask`` (broadcast to
    (B, H, N, L)) is true where a query sees a key, and with ``causal`` no query sees the keys after its own.

    Torch's own function, but for training in half precision on a CPU, where the backward pass of its fused kernel takes
    ten times as long as these matrix products for 64 keys, and three times for 256. Whatever else answers for that
    function (``torch.overrides``) is asked everywhere.
    """
    slow = q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16) and torch.is_grad_enabled()
    if not slow or q.shape[-2] * k.shape[-2] > MOST or has_torch_function((q, k, v)):
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    return by_products(q, k, v, mask, causal)


def by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """``attend``, as it is written there."""
    logits = (q * (1 / sqrt(q.shape[-1]))) @ k.mT
    if causal:
        logits = logits.masked_fill(logits.new_ones(logits.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    if mask is None:
        return logits.softmax(-1) @ v
    logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return logits.softmax(-1).masked_fill(~mask, 0) @ v  # a query that sees no key gets zeros, as of torch's function
