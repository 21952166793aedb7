"""Byte-pair encoding: any text comes back, as the library encodes it, from a state of one tensor."""

import copy
import io
import pickle
import random

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, trainers

from oboro.base.errors import UserError
from oboro.model.tokenizer import BYTES, END, NONE, PAD, SPECIAL, START, Tokenizer

TEXT = """a photo of the grey red apple boot sneaker, t-shirt Émoji 東京 food’s (fruit) 🍎 picture style with many other
words so that there is more to merge than room"""
WORDS = TEXT.split()
CAPTIONS = [" ".join(random.Random(i).choices(WORDS, k=7)) for i in range(200)]
FOREIGN = [
    "",
    " ",
    "  two  spaces and a tab\t, a line\nand a null \0",
    "naïve Straße ΣΊΣΥΦΟΣ İstanbul",
    "日本語の文章 with العربية and עברית",
    "👩‍👩‍👧‍👦 🏴󠁧󠁢󠁳󠁣󠁴󠁿 e\u0301 \uffff \U0010ffff",
    "<start of text> <end of text> <no text> Ġ Ċ",
]


def fitted(vocab_size: int = 400, length: int = 300, captions=CAPTIONS) -> Tokenizer:
    tokenizer = Tokenizer(vocab_size, length)
    tokenizer.fit(captions)
    return tokenizer


def trained_by_the_library(vocab_size: int, captions) -> tokenizers.Tokenizer:
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    settings = {"special_tokens": list(SPECIAL), "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, **settings)
    theirs.train_from_iterator([caption.lower() for caption in captions], trainer)
    return theirs


def test_any_text_comes_back_in_lower_case():
    tokenizer = fitted()
    ids, _ = tokenizer(FOREIGN + CAPTIONS)
    assert tokenizer.decode(ids) == [text.lower() for text in FOREIGN + CAPTIONS]
    g = random.Random(0)
    letters = [chr(c) for c in g.sample([*range(0xD800), *range(0xE000, 0x110000)], 3000)]
    texts = ["".join(letters[i : i + 60]) for i in range(0, 3000, 60)]
    assert tokenizer.decode(tokenizer(texts)[0]) == [text.lower() for text in texts]


@pytest.mark.parametrize("vocab_size", [260, 300, 400, 5000])
def test_ids_are_those_of_the_library_s_own_training(vocab_size):
    ours, theirs = fitted(vocab_size), trained_by_the_library(vocab_size, CAPTIONS)
    texts = CAPTIONS + FOREIGN[:-1]  # the library would find its marks in the text
    ids, mask = ours(texts)
    for row, there, text in zip(ids, mask, texts, strict=True):
        assert row[there].tolist() == [START, *theirs.encode(text.lower()).ids, END]
        assert (row[~there] == PAD).all()
    assert theirs.get_vocab_size() == ours.encoder.get_vocab_size()
    assert ids.max() < vocab_size


def test_marks_in_a_text_are_text():
    tokenizer = fitted()
    ids, mask = tokenizer([" ".join(SPECIAL)])
    assert (ids[0] < len(SPECIAL)).sum() == 2 + (~mask).sum()


def test_two_merges_of_one_token_share_its_id():
    """ab+c and a+bc are one token; the next merge gets the next id, as in the library's training."""
    tokenizer = Tokenizer(266, 8)
    a, b, c = (tokens + len(SPECIAL) for tokens in map(BYTES.index, "abc"))
    first = len(SPECIAL) + len(BYTES)
    ab, abc, bc, twice = range(first, first + 4)
    merges = [[a, b], [ab, c], [b, c], [a, bc], [abc, abc], [NONE, NONE], [NONE, NONE]]
    tokenizer.load_state_dict({"merges": torch.tensor(merges)})
    ids, _ = tokenizer(["abcabc", "abc", "bc"])
    assert ids[:, 1].tolist() == [twice, abc, bc] and (ids[:, 2] == END).all()
    assert tokenizer.decode(ids) == ["abcabc", "abc", "bc"]


def test_the_order_of_the_captions_does_not_matter():
    shuffled = random.Random(1).sample(CAPTIONS, len(CAPTIONS))
    upper = [caption.upper() for caption in CAPTIONS if "’" not in caption]
    lower = [caption.lower() for caption in CAPTIONS if "’" not in caption]
    assert torch.equal(fitted().merges, fitted(captions=shuffled).merges)
    assert torch.equal(fitted(captions=upper).merges, fitted(captions=lower).merges)


def test_merges_lower_the_number_of_tokens_and_run_out():
    lengths = [int(fitted(size)(CAPTIONS)[1].sum()) for size in (260, 280, 300, 350)]
    assert lengths == sorted(set(lengths), reverse=True)
    few = fitted(5000).merges
    end = int((few[:, 0] != NONE).sum())
    assert 0 < end < len(few) and (few[end:] == NONE).all() and (few[:end] >= len(SPECIAL)).all()
    assert (few[:end] < len(SPECIAL) + len(BYTES) + torch.arange(end)[:, None]).all()  # of tokens that are there


def test_a_long_text_is_cut_and_ends():
    whole, short = fitted(length=300), fitted(length=8)
    text = CAPTIONS[0]
    ids, mask = short([text, "a"])
    assert ids.shape == mask.shape == (2, 8) and ids.dtype == torch.int64 and mask.dtype == torch.bool
    assert ids[0].tolist() == [*whole([text])[0][0, :7].tolist(), END] and mask[0].all()
    assert ids[1, 2:].tolist() == [END] + [PAD] * 5 and mask[1].tolist() == [True] * 3 + [False] * 5
    assert short([])[0].shape == (0, 8)


def test_the_state_is_the_merges_alone():
    tokenizer, other = fitted(), Tokenizer(400, 300)
    expected = tokenizer(CAPTIONS)[0]
    assert {k: (v.shape, v.dtype) for k, v in tokenizer.state_dict().items()} == {"merges": ((141, 2), torch.int64)}
    other.fit(["quite another text"] * 3)
    assert not torch.equal(other(CAPTIONS)[0], expected)  # and the library's object is built
    file = io.BytesIO()
    torch.save(tokenizer.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for same in (other, copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert torch.equal(same(CAPTIONS)[0], expected)


def test_what_is_unread_is_what_changes_nothing():
    """Any other end in its place gives the same ids, and another text before it does not."""
    tokenizer = fitted(length=12)
    for text in [" ".join(FOREIGN + CAPTIONS[:1]), *CAPTIONS[:20], "日本語の文章" * 3, "a", ""]:
        (end,) = tokenizer.unread([text])
        read = text.lower().removesuffix(end)
        assert read + end == text.lower() and (len(end) > 0) == (len(tokenizer.encoder.encode(text.lower()).ids) > 10)
        if end:
            assert torch.equal(tokenizer([text])[0], tokenizer([read + end[:1] + " something else"])[0])


def test_an_unfitted_tokenizer_says_so():
    tokenizer = Tokenizer(300, 8)
    assert not tokenizer.fitted
    for ask in (lambda: tokenizer(["a"]), lambda: tokenizer.decode(torch.zeros(1, 8, dtype=torch.int64))):
        with pytest.raises(RuntimeError, match="learned no merges: call fit"):
            ask()
    tokenizer.fit(["a"])  # nothing to merge
    assert tokenizer.fitted and tokenizer(["b"])[1].sum() == 3
    restored = Tokenizer(300, 8)
    restored.load_state_dict(tokenizer.state_dict())
    assert restored.fitted


@pytest.mark.parametrize(("sizes", "match"), [((259, 8), "vocab_size above 259"), ((300, 2), "length to 3 or more")])
def test_sizes_without_room_are_refused(sizes, match):
    with pytest.raises(UserError, match=match):
        Tokenizer(*sizes)
