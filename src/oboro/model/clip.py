"""CLIP: one space for images and texts (Radford et al. 2021, arXiv:2103.00020)."""

from collections.abc import Sequence
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.ranges import Depth, Entries, Positive, Width
from oboro.model.tokenizer import Tokenizer
from oboro.model.transformer import PreNormBlock

MAX_SCALE = 100.0
TEXTS = 256  # embedded at once


class TextTower(nn.Module):
    """Token ids ↦ a vector for each token and one for the text: a pre-norm transformer with its tokenizer.

    Every token sees all others but padding, where the text model of CLIP sees those before it alone: the tokens are the
    context of a denoiser's cross-attention later, and the vector of the text is that of its end token either way.
    The tokenizer's merges are a buffer of this module. Raises ``UserError`` unless ``heads`` divides ``dim``.
    """

    def __init__(self, vocab_size: Entries, length: Width, dim: Width, depth: Depth, heads: Depth, embedding: Width):
        super().__init__()
        if dim % heads:
            raise UserError(
                f"{dim} channels do not split into {heads} heads; set model.text.heads to a divisor of model.text.dim."
            )
        self.dim = dim
        self.tokenizer = Tokenizer(vocab_size, length)
        self.table = nn.Embedding(vocab_size, dim)
        self.place = nn.Parameter(torch.empty(length, dim))
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.normal_(self.place, std=0.01)
        self.blocks = nn.ModuleList(PreNormBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, embedding, bias=False)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, dim) after the last norm, and the texts (B, embedding): the end token, projected.

        ``mask`` (B, L), bool, is true up to the end token; what the tokens are behind it has no meaning.
        """
        h = self.table(ids) + self.place[: ids.shape[1]]
        for block in self.blocks:
            h = block(h, mask)
        tokens = self.norm(h)
        end = mask.sum(1) - 1
        return tokens, self.proj(tokens[torch.arange(len(ids), device=ids.device), end])

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, start and end included."""
        return self.tokenizer(texts)[1].sum(1).tolist()

    def unread(self, texts: Sequence[str]) -> list[str]:
        """The end of each text that the tokenizer has no room for; "" where all of it is read."""
        return self.tokenizer.unread(texts)

    def spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """The characters [start, end) of each token of each text; (0, 0) for marks and padding."""
        return self.tokenizer.spans(texts)

    def encode_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (n, L, dim), their mask (n, L) and the vectors (n, embedding) of n texts, for a denoiser."""
        ids, mask = self.tokenizer(texts)
        parts = [self(*part) for part in zip(ids.split(TEXTS), mask.split(TEXTS), strict=True)]
        tokens, whole = (torch.cat(column) for column in zip(*parts, strict=True))
        return tokens, mask, whole


class CLIP(nn.Module):
    """Unit vectors of images and of texts that are close where image and text belong together.

    A logit of a pair is ``scale() cos(image, text) + bias``. The scale is learned as its logarithm and kept at most
    100 (arXiv:2103.00020, sec. 2.5); ``scale`` is where it starts. ``bias`` is that of ``loss=siglip``
    (arXiv:2303.15343, sec. 3.2: scale 10, bias -10) and learned too; None has none, for a softmax cannot tell.

    ``image``: (B, C, H, W) ↦ (B, E), with the ``multiple`` that H and W have to be of. ``text``: a ``TextTower``.
    """

    def __init__(self, image: nn.Module, text: TextTower, scale: Positive = 1 / 0.07, bias: float | None = None):
        super().__init__()
        self.image = image
        self.text = text
        self.log_scale = nn.Parameter(torch.tensor(log(scale)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def scale(self) -> Tensor:
        """exp(log_scale), after an update has been brought back to 100 at most."""
        with torch.no_grad():
            self.log_scale.clamp_(max=log(MAX_SCALE))
        return self.log_scale.exp()

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (B, L) and mask (B, L), see ``Tokenizer``."""
        return self.text.tokenizer(texts)

    def forward(self, x: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, E) of images x (B, C, H, W) in [-1, 1] and of tokenized texts."""
        return unit(self.image(x)), unit(self.text(ids, mask)[1])

    def encode_image(self, x: Tensor) -> Tensor:
        """Unit vectors (B, E) of images (B, C, H, W) in [-1, 1]."""
        return unit(self.image(x))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, E) of n texts."""
        ids, mask = self.tokenize(texts)
        parts = zip(ids.split(TEXTS), mask.split(TEXTS), strict=True)
        return torch.cat([unit(self.text(*part)[1]) for part in parts])


def unit(h: Tensor) -> Tensor:
    """Rows of length one, in at least single precision."""
    return F.normalize(h.to(torch.promote_types(h.dtype, torch.float32)), dim=1)
