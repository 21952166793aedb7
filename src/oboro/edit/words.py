"""Which tokens of two texts correspond: the words that both have, and those that one has in the place of others."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.condition import Signal

WORD = re.compile(r"\w+|[^\w\s]")
MARK = -1  # of tokens that belong to no word: start, end, padding, spaces


@dataclass(frozen=True, eq=False)
class Correspondence(Signal):
    """How the attention to the tokens of a target is made of that to the tokens of a source.

    Column j of ``shares`` (B, L, L) are the shares of the source's tokens in target token j; a column of zeros is a
    token that the source has not. ``factor`` (B, L) multiplies the attention to a token of the target.
    """

    shares: Tensor
    factor: Tensor

    def drop(self, mask: Tensor) -> "Correspondence":
        """Nothing corresponds."""
        keep = (~mask).to(self.shares)
        return Correspondence(self.shares * keep[:, None, None], torch.where(mask[:, None], 1.0, self.factor))


@dataclass(frozen=True)
class Words:
    """The words of a text, in lower case, and for each token the index of its word, or ``MARK``."""

    words: tuple[str, ...]
    of_token: tuple[int, ...]

    def tokens(self, first: int, last: int) -> list[int]:
        """The tokens of the words ``first`` to ``last`` - 1."""
        return [i for i, word in enumerate(self.of_token) if first <= word < last]


def read_words(text: str, spans: Sequence[tuple[int, int]]) -> Words:
    """``spans``: the characters [start, end) of each token, of which the last one says to which word it belongs."""
    found = list(WORD.finditer(text.lower()))
    ends = [end - 1 if end > start else None for start, end in spans]
    of_token = (
        next((i for i, word in enumerate(found) if last is not None and word.start() <= last < word.end()), MARK)
        for last in ends
    )
    return Words(tuple(word.group() for word in found), tuple(of_token))


def correspondence(source: Words, target: Words, swapped: bool) -> Tensor:
    """The ``shares`` (L, L) of two texts, see ``Correspondence``.

    Words that both have correspond, as do words that stand in the place of others if ``swapped``. Of tokens of equal
    number each takes the attention of one; else the attention to all of them is shared out equally (Hertz et al. 2022,
    arXiv:2208.01626, sec. 3, with the mapping of its code). Start, end and padding correspond in their order.
    """
    made = torch.zeros(len(source.of_token), len(target.of_token))
    for what, a, b, c, d in SequenceMatcher(None, source.words, target.words, autojunk=False).get_opcodes():
        if what == "equal":
            for i, j in zip(range(a, b), range(c, d), strict=True):
                join(made, source.tokens(i, i + 1), target.tokens(j, j + 1))
        elif what == "replace" and swapped:
            join(made, source.tokens(a, b), target.tokens(c, d))
    for marks in zip(*map(marks_of, (source, target)), strict=True):
        for i, j in zip(*marks, strict=False):
            made[i, j] = 1
    return made


def join(made: Tensor, source: Sequence[int], target: Sequence[int]) -> None:
    """Nothing where one of them lies beyond what is read of its text."""
    if len(source) == len(target):
        for i, j in zip(source, target, strict=True):
            made[i, j] = 1
    elif target:
        for i in source:
            made[i, list(target)] = 1 / len(target)


def marks_of(text: Words) -> tuple[list[int], list[int]]:
    """The tokens before the first word, and those after the last one."""
    inside = [i for i, word in enumerate(text.of_token) if word != MARK]
    first, last = (inside[0], inside[-1]) if inside else (1, 0)
    return list(range(first)), list(range(last + 1, len(text.of_token)))


def factors(text: Words, weights: Mapping[str, float]) -> Tensor:
    """(L,): the weight of the word that a token belongs to, or 1."""
    by_word = [weights.get(word, 1.0) for word in text.words]
    return torch.tensor([1.0 if word == MARK else by_word[word] for word in text.of_token])


def check_weights(weights: Mapping[str, float], texts: Sequence[Words]) -> None:
    """Raises ``UserError`` for a word that none of ``texts`` has."""
    known = {word for text in texts for word in text.words}
    for word in weights:
        if word not in known:
            listed = ", ".join(sorted(known))
            raise UserError(f"edit.weights names {word}, which no prompt has; the words are {listed}.")
