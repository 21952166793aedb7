"""The text encoder of CLIP as OpenAI and OpenCLIP published it, with its tokenizer."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.ranges import Bytes, CountOrNone, Depth, Entries, Positive, Width
from oboro.model.attention import attend
from oboro.model.tokenizer import left_out, spans_of


class CLIPBlock(nn.Module):
    """Causal self-attention and a two-layer MLP, each on a LayerNorm of h, and added."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, quick_gelu: bool, eps: float):
        super().__init__()
        self.heads = heads
        self.quick_gelu = quick_gelu
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp1 = nn.Linear(dim, mlp_dim)
        self.mlp2 = nn.Linear(mlp_dim, dim)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(h)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = h + self.proj(attend(q, k, v, causal=True).transpose(1, 2).flatten(2))
        m = self.mlp1(self.norm2(h))
        return h + self.mlp2(m * torch.sigmoid(1.702 * m) if self.quick_gelu else F.gelu(m))


class CLIPText(nn.Module):
    """Texts ↦ (tokens (B, length, dim), mask (B, length), pooled (B, dim)): CLIP's (Radford et al. 2021,
    arXiv:2103.00020, sec. 2.4), which Stable Diffusion reads texts with.

    Tokens are the outputs of the last layer after a LayerNorm, ``pooled`` is that of the first ``end`` token. The mask
    is True throughout: Stable Diffusion attends to the padding, too. A text is cut to ``length`` tokens, its end
    included, and padded with ``pad``. ``quick_gelu`` is x sigmoid(1.702 x), as OpenAI trained; else GELU.

    The tokenizer is the buffer ``tokenizer`` of ``tokenizer_bytes`` bytes, a tokenizer.json; so it travels with the
    weights. Raises ``UserError`` where these bytes are none.
    """

    tokenizer: Tensor

    def __init__(
        self,
        vocab_size: Entries,
        length: Width,
        dim: Width,
        depth: Depth,
        heads: Depth,
        mlp_dim: Width,
        tokenizer_bytes: Bytes,
        end: CountOrNone,
        pad: CountOrNone,
        quick_gelu: bool = True,
        eps: Positive = 1e-5,
    ):
        super().__init__()
        self.length = length
        self.end = end
        self.pad = pad
        self.token = nn.Embedding(vocab_size, dim)
        self.position = nn.Embedding(length, dim)
        self.blocks = nn.ModuleList(CLIPBlock(dim, heads, mlp_dim, quick_gelu, eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.register_buffer("tokenizer", torch.zeros(tokenizer_bytes, dtype=torch.uint8))
        self._encoder: Tokenizer | None = None

    def tokenize(self, texts: list[str]) -> Tensor:
        """Ids (B, length), int64, on the CPU."""
        return torch.tensor([encoded.ids for encoded in self._encode(texts)])

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

    def forward(self, ids: Tensor) -> Tensor:
        h = self.token(ids) + self.position.weight[: ids.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.norm(h)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """What the mask keeps of each text: all of it, the padding included."""
        return [self.length] * len(texts)

    def encode_tokens(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        ids = self.tokenize(texts).to(self.token.weight.device)
        h = self(ids)
        first = (ids == self.end).int().argmax(1)
        return h, torch.ones_like(ids, dtype=torch.bool), h[torch.arange(len(h), device=h.device), first]


def open_tokenizer(content: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # what the library raises has no better name
        raise UserError(f"the tokenizer cannot be read ({error}); get its folder again.") from error
