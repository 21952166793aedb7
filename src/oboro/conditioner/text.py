"""Conditioning on a text about the image."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oboro import condition
from oboro.base.errors import UserError
from oboro.base.ranges import Share, Width, WidthOrNone
from oboro.conditioner.conditioner import Batch, Single, training_metadata
from oboro.conditioner.encoded_texts import EncodedTexts, Row, cache_texts, encoded, remark_unread
from oboro.data import Population

SHOWN = 8  # captions of the data in pictures
REMEMBERED = 2**30  # bytes of encoded texts that are kept


class Text(Single):
    """batch["caption"] ↦ the signal ``text``: tokens (B, L, text_dim), their mask (B, L) and pooled (B, pooled_dim).

    ``encoder`` is a frozen ``TextEncoder``. Each distinct text is encoded once and remembered.

    ``prompts`` are the texts of pictures, in turn; without them, those during training show captions of the data.
    """

    name, kind, entry = "text", condition.Text, "caption"

    def __init__(
        self,
        encoder: nn.Module,
        text_dim: Width,
        pooled_dim: WidthOrNone,
        dropout: Share = 0.1,
        prompts: Sequence[str] = (),
    ):
        super().__init__(dropout)
        self.text_dim = text_dim
        self.pooled_dim = pooled_dim
        self.encoder = encoder.requires_grad_(False).eval()
        self.prompts = list(prompts)
        self._shown = self.prompts
        self._remembered: dict[str, Row] = {}
        self._cached: EncodedTexts | None = None

    def train(self, mode: bool = True) -> "Text":
        """The encoder stays in evaluation mode."""
        self.training = mode
        return self

    def signal(self, batch: Batch) -> condition.Text:
        rows = self._encoded(batch["caption"])
        device = next(self.encoder.parameters()).device
        return condition.Text(*(torch.stack(column).to(device) for column in zip(*rows, strict=True)))

    def metadata(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """Prompt i mod their number, or of a ``population`` the caption (and the class, where there is one) of
        ``training_rows``."""
        if population is not None:
            return training_metadata(ids, population)
        texts = self._shown or [""]
        return {"caption": [texts[i % len(texts)] for i in ids]}

    def check(self, population: Population) -> None:
        if population.captions is None:
            raise UserError(
                "conditioner=text needs images with captions and these have none; choose data=fashion_captions, "
                "data=emoji or a folder with a text in each line of metadata.jsonl, or choose conditioner=label or "
                "unconditional."
            )
        self._shown = self.prompts or self.metadata(range(SHOWN), population)["caption"]
        remark_unread(self.encoder, population.captions, "captions of the data")
        remark_unread(self.encoder, self.prompts, "conditioner.prompts")

    def cache(self, texts: Sequence[str], folder: Path, done: Callable[[int], None] | None = None) -> None:
        if not texts:
            raise UserError("there are no captions to encode; leave callbacks.text_cache out.")
        self._cached = cache_texts(texts, self.encoder, folder, done)

    def _encoded(self, texts: Sequence[str]) -> list[Row]:
        device = next(self.encoder.parameters()).device
        if self._cached is not None and all(text in self._cached for text in texts):
            return [self._cached[text] for text in texts]
        if any(row[0].device != device for row in list(self._remembered.values())[:1]):
            self._remembered.clear()
        new = list(dict.fromkeys(text for text in texts if text not in self._remembered))
        if new:
            rows = list(encoded(self.encoder, new))
            size = sum(part.element_size() * part.nelement() for part in rows[0])
            if size * (len(self._remembered) + len(new)) > REMEMBERED:
                self._remembered = {text: row for text, row in self._remembered.items() if text in set(texts)}
            self._remembered |= zip(new, rows, strict=True)
        return [self._remembered[text] for text in texts]
