"""The encoder of T5, with its tokenizer."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn

from oboro.base.ranges import Bytes, CountOrNone, Depth, Entries, Positive, Width
from oboro.model.clip_text import open_tokenizer
from oboro.model.tokenizer import left_out, spans_of


def position_buckets(distance: Tensor, buckets: int, max_distance: int) -> Tensor:
    """Numbers in [0, ``buckets``) of the distances j - i from a query i to a key j: half of them for each direction.

    Of h = buckets / 2 in a direction, |j - i| < h / 2 has one each; the others grow with the logarithm,
    h / 2 + floor(h / 2 log(|j - i| / (h / 2)) / log(max_distance / (h / 2))), and the last has all from
    ``max_distance`` on (Raffel et al. 2020, arXiv:1910.10683, sec. 2.1). Single precision, as T5 was trained: whoever
    computes a boundary otherwise may find the bucket beside it.
    """
    half = buckets // 2
    exact = half // 2
    n = distance.abs()
    far = torch.log(n.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (half - exact)
    far = (exact + far.long()).clamp(max=half - 1)
    return torch.where(n < exact, n, far) + half * (distance > 0)


class T5Block(nn.Module):
    """Self-attention and a two-layer MLP, each on an RMSNorm of h, and added; nothing has a bias.

    softmax(q kᵀ + bias) v without the factor 1 / sqrt(d). The MLP is W2 relu(W1 h), or with ``gated`` the GEGLU
    W2 (gelu(W1 h) * V h) of Shazeer 2020 (arXiv:2002.05202, eq. 6), with the GELU by tanh.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, mlp_dim: int, gated: bool, eps: float):
        super().__init__()
        self.heads = heads
        self.gated = gated
        self.norm1 = nn.RMSNorm(dim, eps=eps)
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.proj = nn.Linear(heads * head_dim, dim, bias=False)
        self.norm2 = nn.RMSNorm(dim, eps=eps)
        self.mlp1 = nn.Linear(dim, (2 if gated else 1) * mlp_dim, bias=False)
        self.mlp2 = nn.Linear(mlp_dim, dim, bias=False)

    def forward(self, h: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(h)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        among = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        h = h + self.proj(among.transpose(1, 2).flatten(2))
        m = self.mlp1(self.norm2(h))
        if self.gated:
            gate, value = m.chunk(2, 2)
            return h + self.mlp2(F.gelu(gate, approximate="tanh") * value)
        return h + self.mlp2(F.relu(m))


class T5Text(nn.Module):
    """Texts ↦ (tokens (B, length, dim), mask (B, length), pooled (B, dim)): the encoder of T5 (Raffel et al. 2020,
    arXiv:1910.10683), of version 1.1 and Flan with ``gated``; Imagen, PixArt and Stable Diffusion 3 read texts with it.

    All tokens of a text attend to each other, with a bias for their distance (``position_buckets``) which all layers
    share. A text is cut to ``length`` tokens, its end included, and padded with ``pad``; the mask is False at the
    padding, to which nothing attends.

    T5 has no vector for a whole text. ``pooled`` is the mean of the tokens where the mask is True: it costs nothing,
    and Imagen, too, adds a pooled vector to the embedding of the noise level (Saharia et al. 2022, arXiv:2205.11487,
    sec. 2.5). With ``conditioner.pooled_dim=0`` a network leaves it aside, as PixArt-α does.

    The tokenizer is the buffer ``tokenizer`` of ``tokenizer_bytes`` bytes, a tokenizer.json; so it travels with the
    weights. Raises ``UserError`` where these bytes are none.

    It is meant for single precision: the MLP of the published weights exceeds 65504, the largest float16.
    """

    tokenizer: Tensor

    def __init__(
        self,
        vocab_size: Entries,
        length: Width,
        dim: Width,
        depth: Depth,
        heads: Depth,
        head_dim: Width,
        mlp_dim: Width,
        tokenizer_bytes: Bytes,
        pad: CountOrNone = 0,
        gated: bool = True,
        buckets: Width = 32,
        max_distance: Width = 128,
        eps: Positive = 1e-6,
    ):
        super().__init__()
        self.length = length
        self.pad = pad
        self.max_distance = max_distance
        self.token = nn.Embedding(vocab_size, dim)
        self.relative = nn.Embedding(buckets, heads)
        self.blocks = nn.ModuleList(T5Block(dim, heads, head_dim, mlp_dim, gated, eps) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, eps=eps)
        self.register_buffer("tokenizer", torch.zeros(tokenizer_bytes, dtype=torch.uint8))
        self._encoder: Tokenizer | None = None

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Ids (B, length), int64, and the mask (B, length), bool, on the CPU."""
        rows = self._encode(texts)
        return torch.tensor([row.ids for row in rows]), torch.tensor([row.attention_mask for row in rows]).bool()

    def unread(self, texts: Sequence[str]) -> list[str]:
        """The end of each text that is beyond ``length``; "" where all of it is read."""
        return [left_out(*pair) for pair in zip(self._encode(list(texts)), texts, strict=True)]

    def spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """The characters [start, end) of each token of each text; (0, 0) for marks and padding."""
        return [spans_of(row) for row in self._encode(list(texts))]

    def _encode(self, texts: list[str]) -> list[Encoding]:
        if self._encoder is None:
            self._encoder = open_tokenizer(bytes(self.tokenizer.tolist()))
            self._encoder.enable_truncation(self.length)
            self._encoder.enable_padding(pad_id=self.pad, length=self.length)
        return self._encoder.encode_batch(texts)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, its end included."""
        return self.tokenize(list(texts))[1].sum(1).tolist()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        place = torch.arange(ids.shape[1])  # on the CPU: a logarithm that is off by one bit moves a boundary
        numbers = position_buckets(place - place[:, None], self.relative.num_embeddings, self.max_distance)
        bias = self.relative(numbers.to(ids.device)).permute(2, 0, 1)
        bias = bias.masked_fill(~mask[:, None, None], -torch.inf)
        h = self.token(ids)
        for block in self.blocks:
            h = block(h, bias)
        return self.norm(h)

    def encode_tokens(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        ids, mask = (rows.to(self.token.weight.device) for rows in self.tokenize(texts))
        tokens = self(ids, mask)
        share = mask.to(tokens.dtype)[:, None]
        return tokens, mask, (share @ tokens)[:, 0] / share.sum(2)
