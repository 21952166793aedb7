"""Laws of the pairs of emoji, on two tiny packages of which every picture is known by its shade."""

from collections import Counter, defaultdict

import pytest

from data.test_emoji import TABLE, write
from oboro.base.errors import UserError
from oboro.data import Emoji, EmojiEdits, emoji
from oboro.data.emoji import PACKAGES, skin
from oboro.data.emoji_edits import INSTRUCTIONS, NO_TONE, TONE, VENDOR, edits_of


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji, "PACKAGES", write(tmp_path / "root"))

    def load(kind=EmojiEdits, cache="cache", **keywords):
        keywords = {"root": str(tmp_path / "root"), "validation": 0, **keywords}
        data = kind(cache_dir=str(tmp_path / cache), **keywords)
        data.prepare_data()
        data.setup()
        return data

    return load


def drawings():
    return [drawing for vendor in PACKAGES for drawing in emoji.draw(TABLE, vendor)]


def shades(pictures):
    return pictures[:][:, 0, 32, 32].tolist()


def test_before_becomes_after_as_the_instruction_says():
    """Vendor edits change the vendor alone, both ways and for every picture; tone edits the tone alone."""
    drawn = drawings()
    edits = edits_of(drawn, None)
    seen = defaultdict(set)
    for e in edits:
        before, after = drawn[e.before], drawn[e.after]
        assert before.subject == after.subject
        assert e.instruction in {f.format(to=after.vendor if e.kind == VENDOR else skin(after.tones) or NO_TONE)
                                 for f in INSTRUCTIONS[e.kind]}  # fmt: skip
        changed = (before.vendor != after.vendor, before.tones != after.tones)
        assert changed == ((True, False) if e.kind == VENDOR else (False, True))
        seen[e.kind].add((e.before, e.after))
    assert {before for before, _ in seen[VENDOR]} == set(range(len(drawn)))
    assert len(seen[VENDOR]) == len(drawn) and len(seen[TONE]) == 2 * 7 * 6  # of each hand to the six others
    assert len(seen[VENDOR]) + len(seen[TONE]) == len(edits)
    assert {(b, a) for a, b in seen[TONE]} == seen[TONE]


@pytest.mark.parametrize("tone_share", [0.0, 0.25, 0.5, 0.75])
def test_tones_have_their_share_and_every_picture_as_many_to_one(tone_share):
    drawn = drawings()
    edits = edits_of(drawn, tone_share)
    tones = [e for e in edits if e.kind == TONE]
    assert len(tones) == pytest.approx(tone_share * len(edits), abs=1)
    each = Counter(e.before for e in tones)
    if tones:
        hands = [i for i, d in enumerate(drawn) if d.subject == "1F44B"]
        assert max(each[i] for i in hands) - min(each[i] for i in hands) <= 1
    assert edits == edits_of(drawings(), tone_share) and set(edits) <= set(edits_of(drawn, None))


def test_samples_are_after_and_hints_before(load):
    """Pictures are known by their shades, 1 to 20 in the order of the drawings, two flags of one vendor alike."""
    data, drawn = load(labels="vendor", num_classes="auto"), drawings()
    of = dict(enumerate(shades(load(Emoji).train.samples)))
    edits = edits_of(drawn, 0.5)
    assert shades(data.train.samples) == [of[e.after] for e in edits]
    assert shades(data.train.hints["hint"]) == [of[e.before] for e in edits]
    assert data.train.captions == [e.instruction for e in edits]
    assert data.train.labels.tolist() == [list(PACKAGES).index(drawn[e.after].vendor) for e in edits]
    assert data.hint_modalities["hint"].shape == data.modality.shape == (3, 64, 64) and data.num_classes == 2


def test_the_same_emoji_are_held_out_as_of_the_pictures_alone(load):
    """So that a model that knows emoji, a judge of vendors and the edits have one held-out set."""
    kept = set()
    for seed in range(6):
        pictures, edits = (load(kind, validation=6, seed=seed) for kind in (Emoji, EmojiEdits))
        for part in ("train", "validation"):
            alone, pairs = getattr(pictures, part), getattr(edits, part)
            assert set(shades(alone.samples)) == set(shades(pairs.samples)) == set(shades(pairs.hints["hint"]))
        kept.add(len(edits.validation))
        assert len(edits.train) + len(edits.validation) == len(edits_of(drawings(), 0.5))
    assert kept == {6}  # an apple and two flags, each twice


def test_another_share_or_wording_is_another_data_set_and_too_large_a_share_is_refused(load, monkeypatch):
    first = load(cache="a")
    assert load(cache="b").fingerprint == first.fingerprint != load(tone_share=0.25).fingerprint
    with pytest.raises(UserError, match=r"at most 0\.81 .* data\.tone_share=null"):
        load(tone_share=0.9)
    key = first.source().key
    assert load(tone_share=None).source().key != key
    monkeypatch.setattr("oboro.data.emoji_edits.NO_TONE", "neutral")
    assert EmojiEdits().source().key != key


def test_vendor_labels_are_data_of_their_own(load):
    plain, labelled = load(Emoji), load(Emoji, labels="vendor", num_classes="auto")
    assert plain.train.labels is None and plain.source().key != labelled.source().key
    assert labelled.train.labels.tolist() == ["google" in caption for caption in labelled.train.captions]
