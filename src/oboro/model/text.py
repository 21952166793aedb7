"""How networks read a text: tokens to attend to, one vector for the whole, and what stands in for no text."""

import torch
from torch import Tensor, nn

from oboro.condition import Text
from oboro.model.attention import attend
from oboro.model.layers import count_heads, group_norm, zero


class TextEmbedding(nn.Module):
    """text ↦ (tokens (B, L, text_dim), mask (B, L), embedding (B, dim)).

    Tokens pass LayerNorm; ``embedding`` is a linear map of the pooled vector, or 0 when ``pooled_dim`` is 0. A sample
    whose mask has no True, like all samples when there is no text, has one learned token and one learned vector
    instead: so attention always finds a token, and training with dropped texts teaches the unconditional model.
    """

    def __init__(self, text_dim: int, pooled_dim: int, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.no_text = nn.Parameter(torch.randn(text_dim))
        self.pooled = nn.Linear(pooled_dim, dim) if pooled_dim else None
        self.no_pooled = nn.Parameter(torch.zeros(dim))

    def forward(self, text: Text | None, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        if text is None:
            tokens = self.no_text.repeat(batch, 1, 1)
            return (
                tokens,
                torch.ones(batch, 1, dtype=torch.bool, device=tokens.device),
                self.no_pooled.repeat(batch, 1),
            )
        mask = text.mask
        given = mask.any(1)
        tokens = self.norm(text.tokens.to(self.no_text.dtype))
        tokens = torch.where(given[:, None, None], tokens, self.no_text)
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        whole = self.pooled(text.pooled.to(self.no_text.dtype)) if self.pooled else torch.zeros_like(self.no_pooled)
        return tokens, torch.where(given[:, None], mask, first), torch.where(given[:, None], whole, self.no_pooled)


class CrossAttention(nn.Module):
    """proj(softmax(q kᵀ / sqrt(d)) v) (B, N, dim): queries from h (B, N, dim), keys and values from a text.

    Rombach et al. 2022 (arXiv:2112.10752, sec. 3.3). ``mask`` (B, L) is False at tokens that are not seen. The
    projection starts at zero, so that a network starts without the text.
    """

    def __init__(self, dim: int, text_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(text_dim, 2 * dim)
        self.proj = zero(nn.Linear(dim, dim))

    def forward(self, h: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        q = self.query(h).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(text).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v, mask[:, None, None]).transpose(1, 2).flatten(2))


class PixelCrossAttention(nn.Module):
    """x + CrossAttention(norm(x), text) over all pixels of x (B, C, ...), heads of ``head_channels`` (all when 0)."""

    def __init__(self, channels: int, text_dim: int, head_channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = CrossAttention(channels, text_dim, count_heads(channels, head_channels))

    def forward(self, x: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        h = self.attention(self.norm(x).flatten(2).mT, text, mask)
        return x + h.mT.view_as(x)
