"""Conditioning on a text about the image."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oboro.base.errors import UserError
from oboro.base.seeding import low_discrepancy
from oboro.conditioner.conditioner import Batch, Conditioner
from oboro.conditioner.encoded_texts import EncodedTexts, Row, cache_texts, encoded
from oboro.data import Population
from oboro.denoiser import Cond

SHOWN = 8  # captions of the data in pictures
REMEMBERED = 2**30  # bytes of encoded texts that are kept


class Text(Conditioner):
    """batch["caption"] ↦ {"text": (B, L, text_dim), "text_mask": bool (B, L), "text_pooled": (B, pooled_dim)}.

    ``encoder`` is a frozen ``TextEncoder``. A dropped caption has a mask without any True; for the network that is
    the same as missing keys. Each distinct text is encoded once and remembered.

    ``prompts`` are the texts of pictures, in turn; without them, those during training show captions of the data.
    """

    def __init__(
        self,
        encoder: nn.Module,
        text_dim: int,
        pooled_dim: int,
        dropout: float = 0.1,
        prompts: Sequence[str] = (),
        num_classes: int = 0,
    ):
        if num_classes:
            raise UserError("conditioner=text reads no labels; leave conditioner.num_classes at 0.")
        super().__init__(dropout, 0, text_dim, pooled_dim)
        self.encoder = encoder.requires_grad_(False).eval()
        self.prompts = list(prompts)
        self._shown = self.prompts
        self._remembered: dict[str, Row] = {}
        self._cached: EncodedTexts | None = None

    @property
    def keys(self) -> set[str]:
        return {"text", "text_mask", "text_pooled"}

    def train(self, mode: bool = True) -> "Text":
        """The encoder stays in evaluation mode."""
        self.training = mode
        return self

    def forward(self, batch: Batch, generator: torch.Generator) -> Cond:
        cond = self.keep(batch)
        drop = torch.rand(len(cond["text"]), generator=generator, device=generator.device) < self.dropout
        return {**cond, "text_mask": cond["text_mask"] & ~drop.to(cond["text_mask"].device)[:, None]}

    def keep(self, batch: Batch) -> Cond:
        rows = self._encoded(batch["caption"])
        device = next(self.encoder.parameters()).device
        text, mask, pooled = (torch.stack(column).to(device) for column in zip(*rows, strict=True))
        return {"text": text, "text_mask": mask, "text_pooled": pooled}

    def choose(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """Prompt i mod their number, or of a ``population`` the caption (and the class, where there is one) of a
        training image: that at ``low_discrepancy(i)`` of all, ordered by class."""
        if population is None:
            texts = self._shown or [""]
            return {"caption": [texts[i % len(texts)] for i in ids]}
        n, labels = len(population.captions), population.labels
        order = torch.arange(n) if labels is None else torch.argsort(labels, stable=True)
        rows = order[(low_discrepancy(torch.tensor(list(ids), dtype=torch.int64)) * n).long()]
        chosen = {"caption": [population.captions[i] for i in rows.tolist()]}
        return chosen if labels is None else {**chosen, "label": labels[rows]}

    def check(self, population: Population) -> None:
        if population.captions is None:
            raise UserError(
                "conditioner=text needs images with captions and these have none; choose data=fashion_captions, "
                "data=emoji or a folder with a text in each line of metadata.jsonl, or choose conditioner=label or "
                "unconditional."
            )
        self._shown = self.prompts or self.choose(range(SHOWN), population)["caption"]

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
