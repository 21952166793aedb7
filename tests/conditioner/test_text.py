import pytest
import torch
from torch import nn

from oboro.conditioner import Text
from oboro.conditioner.text import CHUNK
from oboro.data import Population
from oboro.errors import UserError

pytestmark = pytest.mark.usefixtures("global_generator_unread")


class Spelling(nn.Module):
    """Token i of a text is a fixed random vector for its i-th character."""

    def __init__(self):
        super().__init__()
        table = torch.randn(128, 3, generator=torch.Generator().manual_seed(0))
        self.table = nn.Parameter(table)
        self.asked = []

    def encode_tokens(self, texts):
        self.asked += texts
        codes = [[ord(c) for c in text][:5] for text in texts]
        ids = torch.tensor([code + [0] * (5 - len(code)) for code in codes])
        tokens = self.table[ids]
        return tokens, ids > 0, tokens.sum(1)


@pytest.fixture
def text():
    return Text(Spelling(), 3, 3, dropout=0.3, prompts=["ab", "c"])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_text_is_what_the_encoder_makes_of_it_alone_or_in_company(text):
    tokens, mask, pooled = Spelling().encode_tokens(["hat", "shoe"])
    cond = text.keep({"caption": ["shoe", "hat", "shoe"]})
    torch.testing.assert_close(cond["text"], tokens[[1, 0, 1]])
    assert torch.equal(cond["text_mask"], mask[[1, 0, 1]])
    torch.testing.assert_close(cond["text_pooled"], pooled[[1, 0, 1]])


def test_each_distinct_text_is_encoded_once(text):
    for batch in (["hat", "shoe", "hat"], ["shoe", "bag"], ["bag", "hat"]):
        text.keep({"caption": batch})
    assert list(dict.fromkeys(text.encoder.asked)) == ["hat", "shoe", "bag"] and len(text.encoder.asked) == 2 * CHUNK


class Wide(nn.Module):
    """A product of matrices whose last bits depend on the number of its rows."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(512, 512, generator=g) / 23)

    def encode_tokens(self, texts):
        g = torch.Generator()
        x = torch.stack([torch.randn(512, generator=g.manual_seed(len(t) + 7 * ord(t[-1]))) for t in texts])
        y = x @ self.weights @ self.weights
        return y[:, None], torch.ones(len(texts), 1, dtype=torch.bool), y


def test_a_text_is_the_same_bits_whatever_was_read_before():
    texts = [f"{'a' * i} {i}" for i in range(45)]
    fresh, knowing = Text(Wide(), 512, 512), Text(Wide(), 512, 512)
    for start in (40, 3, 17):
        knowing.keep({"caption": texts[start : start + 5]})
    for key, value in fresh.keep({"caption": texts}).items():
        assert torch.equal(value, knowing.keep({"caption": texts})[key])


def test_what_is_remembered_does_not_hold_on_to_its_companions(text):
    text.keep({"caption": ["hat", "shoe", "bag"]})
    for row in text._remembered.values():
        assert all(part.untyped_storage().nbytes() == part.nbytes for part in row)


def test_texts_are_dropped_per_sample_at_the_given_rate(text):
    """Within five standard errors of the binomial distribution."""
    n = 20_000
    mask = text({"caption": ["hat"] * n}, generator())["text_mask"]
    assert set(mask.sum(1).tolist()) == {0, 3}
    assert abs((mask.sum(1) == 0).double().mean() - 0.3) < 5 * (0.3 * 0.7 / n) ** 0.5


def test_dropping_is_a_function_of_the_generator(text):
    batch = {"caption": ["hat"] * 100}
    first, again, other = (text(batch, generator(s))["text_mask"] for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_evaluation_keeps_every_text(text):
    assert text.keep({"caption": ["hat"] * 1000})["text_mask"].any(1).all()


def test_the_encoder_is_not_trained(text):
    text.train()
    assert not text.encoder.training and not any(p.requires_grad for p in text.parameters())
    assert not text({"caption": ["hat"]}, generator())["text"].requires_grad


def test_pictures_show_the_prompts_in_turn(text):
    assert text.choose(range(3), None) == {"caption": ["ab", "c", "ab"]}


def test_without_prompts_pictures_during_training_show_captions_of_the_data():
    text = Text(Spelling(), 3, 3)
    assert text.choose(range(2), None) == {"caption": ["", ""]}
    text.check(Population(captions=[f"c{i}" for i in range(50)]))
    shown = text.choose(range(16), None)["caption"]
    assert len(set(shown)) == 8 and shown[:8] == shown[8:] and set(shown) <= {f"c{i}" for i in range(50)}


def test_samples_have_captions_and_classes_of_the_data_in_proportion(text):
    """Every caption comes with its own class, and any run of ids has the classes as often as the data."""
    labels = torch.tensor([0, 1, 2] * 20 + [0] * 40)
    population = Population(labels, 3, [f"{int(label)} {i}" for i, label in enumerate(labels)])
    chosen = text.choose(range(500, 1500), population)
    assert [int(caption.split()[0]) for caption in chosen["caption"]] == chosen["label"].tolist()
    assert torch.bincount(chosen["label"]).tolist() == pytest.approx([600, 200, 200], abs=8)
    assert len(set(chosen["caption"])) > 95
    assert text.choose([700], population)["caption"] == chosen["caption"][200:201]


def test_data_without_captions_are_refused(text):
    with pytest.raises(UserError, match="choose data=fashion_captions"):
        text.check(Population())
