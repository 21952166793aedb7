import pytest
import torch

from conditioner.spelling import Spelling
from oboro.base.errors import UserError
from oboro.conditioner.encoded_texts import CHUNK, cache_texts, encoded

TEXTS = [f"{'a' * (i % 4)}{i}" for i in range(2 * CHUNK + 6)]


class Counting(Spelling):
    """Says another thing to each number of texts."""

    def encode_tokens(self, texts):
        tokens, mask, pooled = super().encode_tokens(texts)
        return tokens + len(texts), mask, pooled - len(texts)


def test_a_text_is_the_same_whatever_its_company():
    (alone,) = encoded(Counting(), TEXTS[:1])
    among, *_ = encoded(Counting(), TEXTS)
    *_, last = encoded(Counting(), TEXTS[::-1])
    for row in (among, last):
        assert all(torch.equal(a, b) for a, b in zip(row, alone, strict=True))


def test_nothing_is_said_past_the_end_of_a_text():
    ((tokens, mask, _),) = encoded(Spelling(), ["hat"])
    assert mask.tolist() == [True] * 3 + [False] * 2
    assert torch.equal(tokens[:3], Spelling().table[[ord(c) for c in "hat"]]) and not tokens[3:].any()


def test_the_file_gives_back_the_bits(tmp_path):
    cached = cache_texts([*TEXTS, *TEXTS[:5]], Counting(), tmp_path)
    for text, row in zip(TEXTS, encoded(Counting(), TEXTS), strict=True):
        assert text in cached and all(torch.equal(a, b) for a, b in zip(cached[text], row, strict=True))
    assert "other" not in cached


def test_only_what_a_text_says_is_stored(tmp_path):
    cached = cache_texts(TEXTS, Spelling(), tmp_path)
    rows = sum(Spelling().lengths(TEXTS)) + len(TEXTS)
    size = sum(path.stat().st_size for path in cached.folder.glob("*.npy"))
    assert 4 * (3 * rows + rows) <= size <= 4 * (3 * rows + rows) + 512  # each row with its checksum


def test_texts_are_encoded_once_for_each_encoder_and_each_set_of_texts(tmp_path):
    encoder = Spelling()
    first = cache_texts(TEXTS, encoder, tmp_path)
    asked = len(encoder.asked)
    assert cache_texts(TEXTS[::-1], encoder, tmp_path).folder == first.folder and len(encoder.asked) == asked
    others = [cache_texts(TEXTS, Spelling(1), tmp_path), cache_texts(TEXTS[1:], encoder, tmp_path)]
    assert len({cached.folder for cached in (first, *others)}) == 3


def test_a_failure_leaves_nothing(tmp_path):
    class Broken(Spelling):
        def encode_tokens(self, texts):
            if len(self.asked) > CHUNK:
                raise RuntimeError("stop")
            return super().encode_tokens(texts)

    with pytest.raises(RuntimeError, match="stop"):
        cache_texts(TEXTS, Broken(), tmp_path / "texts")
    assert list((tmp_path / "texts").iterdir()) == []


def test_a_full_disk_is_said_before_all_texts_are_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    encoder = Spelling()
    with pytest.raises(UserError, match=r"set data\.cache_dir=.*leave callbacks\.text_cache out"):
        cache_texts(TEXTS, encoder, tmp_path)
    assert len(encoder.asked) <= CHUNK and list(tmp_path.iterdir()) == []


def test_a_run_that_was_faster_wins(tmp_path):
    """Two runs that encode the same texts at the same time write the same."""

    def other_run(finished):
        cache_texts(TEXTS, Spelling(), tmp_path)

    cached = cache_texts(TEXTS, Spelling(), tmp_path, other_run)
    assert len(list(tmp_path.iterdir())) == 1
    for text, row in zip(TEXTS, encoded(Spelling(), TEXTS), strict=True):
        assert torch.equal(cached[text][0], row[0])


@pytest.mark.parametrize("name", ["tokens.npy", "pooled.npy", "meta.json"])
def test_damaged_files_are_written_again(tmp_path, name):
    path = cache_texts(TEXTS, Spelling(), tmp_path).folder / name
    content = path.read_bytes()
    flipped = [content[:k] + bytes([content[k] ^ 2]) + content[k + 1 :] for k in (12, len(content) * 2 // 3, -1)]
    for damaged in (content[:5], content[:-1], *flipped):
        path.write_bytes(damaged)
        cached = cache_texts(TEXTS, Spelling(), tmp_path)
        for text, row in zip(TEXTS, encoded(Spelling(), TEXTS), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(cached[text], row, strict=True))
