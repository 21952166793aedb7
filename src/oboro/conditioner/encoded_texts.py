"""What a text encoder makes of texts: computed the same way whatever their company, and kept on disk."""

import hashlib
import json
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from oboro.base import distributed
from oboro.base.checksums import WrittenArray, create_array, open_checked, sealed, unsealed
from oboro.base.json_text import json_text, parsed
from oboro.base.memory import Parts
from oboro.base.remark import remark
from oboro.data.cache import check_room, writing
from oboro.data.computed import compute_together
from oboro.data.latents import module_digest
from oboro.data.mapped import changed

CHUNK = 32  # texts that are encoded at once: a constant, since batch shapes change results by 1e-7

COUNTED = 1000  # texts whose tokens are counted at once

Row = tuple[Tensor, Tensor, Tensor]


class TextEncoder(Protocol):
    """Texts ↦ (tokens (B, L, D), mask (B, L), pooled (B, P)); L is always the same, ``mask`` is False past the end.

    ``lengths``: how many True the mask of each text will have. ``unread``: the end of each text that is beyond what
    the encoder reads, "" where there is none.
    """

    def encode_tokens(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]: ...

    def lengths(self, texts: Sequence[str]) -> list[int]: ...

    def unread(self, texts: Sequence[str]) -> list[str]: ...


def remark_unread(encoder: TextEncoder, texts: Sequence[str], what: str) -> None:
    """A remark where ``encoder`` does not read ``texts`` to their ends, with the first of these; ``what`` they are."""
    distinct = list(dict.fromkeys(texts))
    some = distinct[:COUNTED]
    cut = [(text, end) for text, end in zip(some, encoder.unread(some), strict=True) if end]
    if cut:
        text, end = cut[0]
        of_first = f"the first {COUNTED:,}" if len(distinct) > COUNTED else f"{len(distinct)}"
        remark(
            f"{len(cut)} of {of_first} different {what} are longer than what the model reads of a text: of "
            f'"{shortened(text)}" it does not read "{shortened(end.strip())}"; texts that differ there alone are the '
            "same to it."
        )


def shortened(text: str) -> str:
    return textwrap.shorten(text, 60, placeholder=" …")


def encoded(encoder: nn.Module, texts: Sequence[str]) -> Iterator[Row]:
    """Tokens (L, D), mask (L,) and pooled (P,) of each text, in float32 whatever the precision of the run.

    Tokens past the end of a text are 0. Chunks have a constant shape, so companions do not change a text's bits.
    """
    device, parts = next(encoder.parameters()).device, Parts()

    def encode(part: list[str]) -> Row:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return encoder.encode_tokens(part)

    for start in range(0, len(texts), CHUNK):
        chunk = list(texts[start : start + CHUNK])
        padded = [*chunk, *[chunk[-1]] * (CHUNK - len(chunk))]
        tokens, mask, pooled = (torch.cat(column) for column in zip(*parts(encode, padded), strict=True))
        tokens, pooled = tokens.float().masked_fill(~mask[..., None], 0), pooled.float()
        # A view would hold on to all of the chunk.
        yield from ((tokens[i].clone(), mask[i].clone(), pooled[i].clone()) for i in range(len(chunk)))


class EncodedTexts:
    """Distinct texts as they were encoded once, mapped from ``folder``: ``texts[text]`` is its row, on the CPU.

    ``tokens.npy`` holds the tokens of all texts one after the other, without padding, and ``pooled.npy`` their vectors;
    the tokens of text i are those from ``ends[i]`` to ``ends[i + 1]``. Raises ``ValueError``, ``OSError``, ``EOFError``
    or ``KeyError`` where the files are damaged, and ``UserError`` where a row is found to be when it is read
    (``oboro.base.checksums``).
    """

    def __init__(self, folder: Path, texts: Sequence[str], ends: np.ndarray):
        self._tokens, self._pooled = (open_checked(folder / f"{name}.npy") for name in ("tokens", "pooled"))
        self._length = unsealed(parsed((folder / "meta.json").read_text()))["length"]
        if (len(self._tokens.array), len(self._pooled.array)) != (ends[-1], len(texts)):
            raise ValueError(f"{folder} holds other texts")
        self._place = {text: i for i, text in enumerate(texts)}
        self._ends = ends
        self.folder = folder

    def __contains__(self, text: str) -> bool:
        return text in self._place

    def __getitem__(self, text: str) -> Row:
        i = self._place[text]
        start, end = self._ends[i], self._ends[i + 1]
        try:
            said, pooled = self._tokens.take(np.arange(start, end)), self._pooled.take(np.array([i]))[0]
        except ValueError as error:
            raise changed(self.folder, str(error)) from error
        tokens = torch.zeros(self._length, said.shape[1])
        tokens[: end - start] = torch.from_numpy(said)
        mask = torch.arange(self._length) < int(end - start)
        return tokens, mask, torch.from_numpy(pooled)


def cache_texts(
    texts: Sequence[str], encoder: nn.Module, folder: Path, done: Callable[[int], None] | None = None
) -> EncodedTexts:
    """``encoded`` of all distinct ``texts``, from ``folder`` where it is there, else computed by all ranks together.

    It is named after the texts and the digest of the encoder. All ranks must see ``folder``. The bits are those of
    ``encoded``, on any number of ranks. ``done`` gets how many texts are finished. Raises ``UserError`` where the
    disk is full, or cannot be written to, before all texts are encoded.
    """
    texts = sorted(set(texts))
    some = (texts[start : start + COUNTED] for start in range(0, len(texts), COUNTED))
    ends = np.cumsum([0, *chain.from_iterable(map(encoder.lengths, some))], dtype=np.int64)
    key = hashlib.sha256(f"1 {module_digest(encoder)} {json.dumps(texts)}".encode()).hexdigest()[:32]
    final = folder / key
    compute_together(
        final,
        lambda: whole(final, texts, ends),
        lambda partial: create(partial, texts, encoder, ends),
        lambda partial: fill(partial, texts, encoder, ends, done),
    )
    return EncodedTexts(final, texts, ends)


def whole(folder: Path, texts: Sequence[str], ends: np.ndarray) -> bool:
    """Whether ``folder`` holds these texts; what is damaged is thrown away."""
    if not folder.is_dir():
        return False
    try:
        EncodedTexts(folder, texts, ends)
    except (OSError, ValueError, EOFError, KeyError):
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def create(partial: Path, texts: Sequence[str], encoder: nn.Module, ends: np.ndarray) -> None:
    """A folder with empty arrays of the right size. ``UserError`` where there is no room for it."""
    ((tokens, mask, pooled),) = encoded(encoder, texts[:1])
    shapes = {"tokens": (int(ends[-1]), tokens.shape[1]), "pooled": (len(texts), len(pooled))}
    with writing(partial.parent):
        needed = sum(4 * rows * width for rows, width in shapes.values())
        check_room(partial.parent, needed, "encoded texts", "callbacks.text_cache")
        partial.mkdir()
        for name, shape in shapes.items():
            create_array(partial / f"{name}.npy", shape)
        (partial / "meta.json").write_text(json_text(sealed({"length": len(mask)})))


def fill(
    partial: Path,
    texts: Sequence[str],
    encoder: nn.Module,
    ends: np.ndarray,
    done: Callable[[int], None] | None,
) -> None:
    """The chunks of this rank."""
    tokens, pooled = (WrittenArray(partial / f"{name}.npy") for name in ("tokens", "pooled"))
    finished = 0
    for ids in distributed.chunks(len(texts), CHUNK):
        held = [i for i in ids if i >= 0]
        for i, (row, mask, vector) in zip(held, encoded(encoder, [texts[i] for i in held]), strict=True):
            tokens[ends[i] : ends[i + 1]] = row[mask].cpu().numpy()
            pooled[i : i + 1] = vector.cpu().numpy()
        finished += CHUNK * distributed.world_size()
        if done is not None:
            done(min(finished, len(texts)))
    tokens.flush()
    pooled.flush()
