"""Attention seen and changed from outside, in any network that computes it with torch's own function."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Attention:
    """The arguments of one softmax(q kᵀ / sqrt(d)) v: q (B, H, N, d), k and v (B, H, L, d); ``mask`` as torch's."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None = None
    dropout: float = 0.0
    causal: bool = False
    scale: float | None = None
    grouped: bool = False

    @property
    def crosses(self) -> bool:
        """Whether pixels attend to something else, a text: it has a mask, or another number of keys than queries."""
        return self.mask is not None or self.q.shape[-2] != self.k.shape[-2]

    def answer(self) -> Tensor:
        """(B, H, N, d)"""
        return F.scaled_dot_product_attention(
            *(self.q, self.k, self.v, self.mask, self.dropout, self.causal),
            scale=self.scale,
            enable_gqa=self.grouped,
        )

    def map(self) -> Tensor:
        """softmax(q kᵀ / sqrt(d)) (B, H, N, L), float32."""
        with torch.autocast(self.q.device.type, enabled=False):
            logits = (
                self.q.float() @ self.k.float().mT * (1 / sqrt(self.q.shape[-1]) if self.scale is None else self.scale)
            )
            if self.mask is not None:
                logits = (
                    logits.masked_fill(~self.mask, -torch.inf) if self.mask.dtype == torch.bool else logits + self.mask
                )
            return logits.softmax(-1)


Control = Callable[[Attention], Tensor]


class Controlled(TorchFunctionMode):
    """Within the block, ``control`` answers every ``scaled_dot_product_attention``; networks know nothing of it.

    A compiled network is evaluated as it is written.
    """

    def __init__(self, control: Control):
        super().__init__()
        self.control = control

    def __enter__(self) -> "Controlled":
        self._stance = torch.compiler.set_stance("force_eager")
        self._stance.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stance.__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        return self.control(arguments(*args, **(kwargs or {})))


def arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Attention:
    """By the names that torch has for them."""
    return Attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


def with_map_of(own: Attention, other: Attention) -> Tensor:
    """``own`` with the attention map of ``other``: softmax(q' k'ᵀ / sqrt(d)) v."""
    return replace(other, v=own.v).answer()
