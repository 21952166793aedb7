"""Texts as fixed-length rows of token ids, by byte-pair encoding learned from the captions of the data."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Encoding, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Encoder
from torch import Tensor, nn

from oboro.base.errors import UserError

START, END, PAD = range(3)
# Names with spaces, which no token has: the bytes of a text are written with other characters.
SPECIAL = ("<start of text>", "<end of text>", "<no text>")
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
FIRST_MERGE = len(SPECIAL) + len(BYTES)
UNFITTED, NONE = -2, -1
PARALLELISM = "TOKENIZERS_PARALLELISM"


class Tokenizer(nn.Module):
    """Byte-level byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) of lower-cased texts.

    Ids are 0 start, 1 end, 2 padding, then the 256 bytes, then one for each token that a merge of two others made. The
    list of merges is all that is learned: a buffer ``merges`` (vocab_size - 259, 2), int64, of the ids that are merged,
    in order, with -1 from where the captions gave no more. It travels with the weights of the model that reads the ids.
    Any text can be encoded, since any text is bytes.

    A text becomes start, its tokens, end, and padding up to ``length``; of one that is too long the first
    ``length - 2`` tokens stay. Raises ``UserError`` unless ``vocab_size`` > 259 and ``length`` > 2.
    """

    merges: Tensor

    def __init__(self, vocab_size: int, length: int):
        super().__init__()
        if vocab_size <= FIRST_MERGE:
            raise UserError(
                f"{vocab_size} tokens leave none to learn beside {len(BYTES)} bytes and {len(SPECIAL)} marks; set "
                f"model.text.vocab_size above {FIRST_MERGE}."
            )
        if length < 3:
            raise UserError(f"{length} tokens hold no text between start and end; set model.text.length to 3 or more.")
        self.length = length
        self.register_buffer("merges", torch.full((vocab_size - FIRST_MERGE, 2), UNFITTED))
        self._encoder: Encoder | None = None

    @property
    def fitted(self) -> bool:
        return bool(self.merges[0, 0] != UNFITTED)

    def fit(self, captions: Iterable[str]) -> None:
        """Learn the merges of the most frequent pairs; equal captions in any order give equal merges."""
        encoder = Encoder(models.BPE())
        encoder.pre_tokenizer = byte_level()
        trainer = trainers.BpeTrainer(
            vocab_size=len(self.merges) + FIRST_MERGE,
            special_tokens=list(SPECIAL),
            initial_alphabet=BYTES,
            show_progress=False,
        )
        with one_thread():
            encoder.train_from_iterator((caption.lower() for caption in captions), trainer)
        learned = json.loads(encoder.to_str())["model"]
        # Two merges may make the same token; then there are more of them than tokens, and the last find no room.
        pairs = [[learned["vocab"][token] for token in pair] for pair in learned["merges"]][: len(self.merges)]
        self.merges.fill_(NONE)
        if pairs:
            self.merges[: len(pairs)] = torch.tensor(pairs)
        self._encoder = None

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (B, length), int64, and the mask (B, length), bool, of all but padding, on the device of ``merges``.

        Raises ``RuntimeError`` before ``fit``.
        """
        rows = [[START, *self.encoder.encode(text.lower()).ids[: self.length - 2], END] for text in texts]
        ids = torch.tensor([row + [PAD] * (self.length - len(row)) for row in rows], dtype=torch.int64)
        ids = ids.view(len(rows), self.length).to(self.merges.device)
        return ids, ids != PAD

    def unread(self, texts: Sequence[str]) -> list[str]:
        """The end of each text, in lower case, that is beyond ``length``; "" where all of it is read."""
        rows = ((text.lower(), self.encoder.encode(text.lower()).offsets) for text in texts)
        room = self.length - 2
        return [text[offsets[room][0] :] if len(offsets) > room else "" for text, offsets in rows]

    def spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """The characters [start, end) of each of the ``length`` tokens of each text; (0, 0) for marks and padding."""
        room = self.length - 2
        rows = (self.encoder.encode(text.lower()).offsets[:room] for text in texts)
        return [[(0, 0), *row, *[(0, 0)] * (room + 1 - len(row))] for row in rows]

    def decode(self, ids: Tensor) -> list[str]:
        """The texts of ``ids`` (B, length), lower case. A character that was cut in its middle becomes U+FFFD."""
        return [self.encoder.decode([i for i in row if i >= len(SPECIAL)]) for row in ids.tolist()]

    @property
    def encoder(self) -> Encoder:
        """What the library makes of the merges; no part of the state."""
        if self._encoder is None:
            if not self.fitted:
                raise RuntimeError("the tokenizer has learned no merges: call fit(captions) or load a state")
            tokens, pairs = [*SPECIAL, *BYTES], []
            known = set(tokens)
            for a, b in self.merges.tolist():
                if a == NONE:
                    break
                pairs.append((tokens[a], tokens[b]))
                merged = tokens[a] + tokens[b]
                if merged not in known:
                    known.add(merged)
                    tokens.append(merged)
            self._encoder = Encoder(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
            self._encoder.pre_tokenizer = byte_level()
            self._encoder.decoder = decoders.ByteLevel()
        return self._encoder

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._encoder = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_encoder": None}


def left_out(row: Encoding, text: str) -> str:
    """The end of ``text`` that truncation kept out of ``row``; "" where nothing was."""
    if not row.overflowing:
        return ""
    rest = row.overflowing[0]
    marked = zip(rest.offsets, rest.special_tokens_mask, strict=True)
    return text[next((start for (start, _), special in marked if not special), len(text)) :]


def spans_of(row: Encoding) -> list[tuple[int, int]]:
    """The characters [start, end) of each token of ``row``; (0, 0) for marks and padding."""
    marked = zip(row.offsets, row.special_tokens_mask, strict=True)
    return [(0, 0) if special else span for span, special in marked]


def byte_level() -> pre_tokenizers.ByteLevel:
    """Words by the pattern of GPT-2, a space at the front of the word it precedes; no merge crosses their borders."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Without the library's threads, of which it warns in each worker of a loader that is started afterwards."""
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"
    try:
        yield
    finally:
        os.environ.pop(PARALLELISM)
        if before is not None:
            os.environ[PARALLELISM] = before
