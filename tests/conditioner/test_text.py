import pytest
import torch

from conditioner.spelling import Spelling
from oboro.base.errors import UserError
from oboro.conditioner import Text, Unconditional
from oboro.conditioner.encoded_texts import CHUNK
from oboro.data import Population

pytestmark = pytest.mark.usefixtures("global_generator_unread")


@pytest.fixture
def text():
    return Text(Spelling(), 3, 3, dropout=0.3, prompts=["ab", "c"])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_text_is_what_the_encoder_makes_of_it_alone_or_in_company(text):
    tokens, mask, pooled = Spelling().encode_tokens(["hat", "shoe"])
    cond = text.keep({"caption": ["shoe", "hat", "shoe"]}).signals["text"]
    torch.testing.assert_close(cond.tokens, (tokens * mask[..., None])[[1, 0, 1]])
    assert torch.equal(cond.mask, mask[[1, 0, 1]])
    torch.testing.assert_close(cond.pooled, pooled[[1, 0, 1]])


def test_each_distinct_text_is_encoded_once(text):
    for batch in (["hat", "shoe", "hat"], ["shoe", "bag"], ["bag", "hat"]):
        text.keep({"caption": batch})
    assert list(dict.fromkeys(text.encoder.asked)) == ["hat", "shoe", "bag"] and len(text.encoder.asked) == 2 * CHUNK


def test_what_is_remembered_does_not_hold_on_to_its_companions(text):
    text.keep({"caption": ["hat", "shoe", "bag"]})
    for row in text._remembered.values():
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in row)


def test_texts_are_dropped_per_sample_at_the_given_rate(text):
    """Within five standard errors of the binomial distribution."""
    n = 20_000
    mask = text({"caption": ["hat"] * n}, generator()).signals["text"].mask
    assert set(mask.sum(1).tolist()) == {0, 3}
    assert abs((mask.sum(1) == 0).double().mean() - 0.3) < 5 * (0.3 * 0.7 / n) ** 0.5


def test_dropping_is_a_function_of_the_generator(text):
    batch = {"caption": ["hat"] * 100}
    first, again, other = (text(batch, generator(s)).signals["text"].mask for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_evaluation_keeps_every_text(text):
    assert text.keep({"caption": ["hat"] * 1000}).signals["text"].mask.any(1).all()


def test_the_encoder_is_not_trained(text):
    text.train()
    assert not text.encoder.training and not any(p.requires_grad for p in text.parameters())
    assert not text({"caption": ["hat"]}, generator()).signals["text"].tokens.requires_grad


def test_pictures_show_the_prompts_in_turn(text):
    assert text.metadata(range(3), None) == {"caption": ["ab", "c", "ab"]}


def test_without_prompts_pictures_during_training_show_captions_of_the_data():
    text = Text(Spelling(), 3, 3)
    assert text.metadata(range(2), None) == {"caption": ["", ""]}
    text.check(Population(captions=[f"c{i}" for i in range(50)]))
    shown = text.metadata(range(16), None)["caption"]
    assert len(set(shown)) == 8 and shown[:8] == shown[8:] and set(shown) <= {f"c{i}" for i in range(50)}


def test_samples_have_captions_and_classes_of_the_data_in_proportion(text):
    """Every caption comes with its own class, and any run of ids has the classes as often as the data."""
    labels = torch.tensor([0, 1, 2] * 20 + [0] * 40)
    population = Population(labels, 3, [f"{int(label)} {i}" for i, label in enumerate(labels)])
    chosen = text.metadata(range(500, 1500), population)
    assert [int(caption.split()[0]) for caption in chosen["caption"]] == chosen["label"].tolist()
    assert torch.bincount(chosen["label"]).tolist() == pytest.approx([600, 200, 200], abs=8)
    assert len(set(chosen["caption"])) > 95
    assert text.metadata([700], population)["caption"] == chosen["caption"][200:201]


def test_data_without_captions_are_refused(text):
    with pytest.raises(UserError, match="choose data=fashion_captions"):
        text.check(Population())


def test_cached_texts_are_the_same_condition_and_others_can_be_asked_for(text, tmp_path):
    captions = [f"{'x' * (i % 4)}{i}" for i in range(70)]
    expected = Text(Spelling(), 3, 3).keep({"caption": [*captions, "new", captions[3]]})
    text.cache(captions, tmp_path)
    text.encoder.asked.clear()
    known = text.keep({"caption": [captions[9], captions[0]]})
    assert text.encoder.asked == []
    answer = text.keep({"caption": [*captions, "new", captions[3]]})
    assert answer == expected and answer.rows([9, 0]) == known


def test_no_captions_to_cache_are_refused(text, tmp_path):
    with pytest.raises(UserError, match=r"leave callbacks\.text_cache out"):
        text.cache([], tmp_path)
    with pytest.raises(UserError, match=r"leave callbacks\.text_cache out"):
        Unconditional().cache(["a"], tmp_path)
