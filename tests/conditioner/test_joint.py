import pytest
import torch

from conditioner.spelling import Spelling
from oboro.base.errors import UserError
from oboro.condition import Condition
from oboro.conditioner import Image, Joint, Label, Text, Unconditional
from oboro.data import Population
from oboro.modality import from_uint8

pytestmark = pytest.mark.usefixtures("global_generator_unread")

N = 20_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def joint(rates=(0.1, 0.3, 0.2), together=0.0):
    label, text, image = rates
    parts = {"label": Label(10, label), "text": Text(Spelling(), 3, 3, text), "image": Image(1, image)}
    return Joint(parts, together)


def batch(n):
    return {"label": torch.arange(n) % 10, "caption": ["hat"] * n, "hint": torch.ones(n, 1, 2, 2)}


def dropped(cond):
    """Which samples lost their label, text, image: (3, n)."""
    s = cond.signals
    return torch.stack([s["label"].index < 0, ~s["text"].mask.any(1), ~s["image"].known])


def test_each_part_is_dropped_on_its_own():
    """Rates and joint rates within five standard errors of independent draws."""
    rates = torch.tensor([0.1, 0.3, 0.2]).double()
    lost = dropped(joint()(batch(N), generator())).double()
    together = lost @ lost.T / N
    expected = torch.outer(rates, rates).fill_diagonal_(0) + torch.diag(rates)
    assert ((together - expected).abs() < 5 * (expected * (1 - expected) / N).sqrt()).all()


def test_all_are_dropped_together_at_the_rate_that_is_asked_for():
    """Brooks et al.: 5 % without image, 5 % without text, 5 % without both, where parts hardly ever coincide."""
    lost = dropped(joint((0.0, 0.05, 0.05), 0.05)(batch(N), generator()))
    none = lost.all(0).double().mean()
    assert abs(none - 0.05) < 5 * (0.05 * 0.95 / N) ** 0.5
    assert abs(lost[1].double().mean() - (0.05 + 0.95 * 0.05)) < 5 * (0.0975 / N) ** 0.5


def test_exclusive_drops_are_those_of_instruct_pix2pix():
    """Its own words: of one uniform number u, no text where u < 0.1 and no image where 0.05 ≤ u < 0.15."""
    parts = {"text": Text(Spelling(), 3, 3, 0.05), "image": Image(1, 0.05)}
    cond = Joint(parts, 0.05, exclusive=True)(batch(N), generator(5))
    u = torch.rand(N, generator=generator(5))
    assert torch.equal(~cond.signals["text"].mask.any(1), u < 0.1)
    assert torch.equal(~cond.signals["image"].known, (u >= 0.05) & (u < 0.15))


def test_exclusive_shares_are_exact_for_any_number_of_parts():
    """Each alone, all, or none: nothing between; one number is drawn a sample."""
    rates, g = (0.1, 0.3, 0.2), generator(1)
    shares, kinds = Joint(joint(rates).parts, 0.15, exclusive=True), torch.eye(3, dtype=torch.bool)
    lost = dropped(shares(batch(N), g)).T
    expected = [*zip(kinds, rates, strict=True), (torch.ones(3, dtype=torch.bool), 0.15)]
    counts = [(lost == kind).all(1).double().mean() for kind, _ in expected]
    for count, (_, rate) in zip(counts, expected, strict=True):
        assert abs(count - rate) < 5 * (rate * (1 - rate) / N) ** 0.5
    assert sum(counts) + (~lost.any(1)).double().mean() == pytest.approx(1)
    assert torch.equal(torch.rand(3, generator=g), torch.rand(N + 3, generator=generator(1))[N:])
    with pytest.raises(UserError, match=r"1\.1 together"):
        Joint(joint((0.5, 0.3, 0.2)).parts, 0.1, exclusive=True)


def test_parts_draw_one_after_the_other_as_they_do_alone():
    """So that a single part is trained as without a joint, to the last bit."""
    whole, parts = joint(), joint().parts
    alone, g = {}, generator(3)
    for part in parts.values():
        alone |= part(batch(50), g).signals
    assert whole(batch(50), generator(3)) == Condition(alone)
    g, single = generator(3), Joint({"label": Label(10, 0.1)})
    assert single(batch(50), g) == Label(10, 0.1)(batch(50), generator(3))
    after = generator(3)
    Label(10, 0.1)(batch(50), after)
    assert torch.equal(torch.rand(3, generator=g), torch.rand(3, generator=after))


def test_label_caption_and_picture_of_a_sample_are_those_of_one_training_image():
    labels = torch.tensor([0, 1, 2] * 20 + [0] * 40)
    hints = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    population = Population(labels, 3, [f"{i}" for i in range(100)], {"hint": hints})
    made = joint().sample_batch(range(300, 500), population)
    rows = [int(caption) for caption in made["caption"]]
    assert torch.equal(made["label"], labels[rows]) and torch.equal(made["hint"], from_uint8(hints[rows]))
    assert set(joint().metadata(range(5), population)) == {"label", "caption"}
    assert torch.bincount(made["label"]).tolist() == pytest.approx([120, 40, 40], abs=4)


def test_pictures_during_training_show_pictures_of_the_data_and_otherwise_want_one():
    hints = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    image = Image(1)
    with pytest.raises(UserError, match="set hint="):
        image.sample_batch(range(3), None)
    image.check(Population(hints={"hint": hints}))
    shown = image.sample_batch(range(16), None)["hint"]
    assert torch.equal(shown[:8], shown[8:]) and len(shown.unique()) == 8


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"2 parts .* signal label; leave all but one out"):
        Joint({"a": Label(3), "b": Label(4)})
    with pytest.raises(UserError, match="second picture"):
        Image(1).check(Population(torch.tensor([0]), 1))
    with pytest.raises(UserError, match=r"have 1 channel and .* is 3; set it to 1"):
        Image(3).check(Population(hints={"hint": torch.zeros(4, 1, 2, 2, dtype=torch.uint8)}))
    with pytest.raises(UserError, match=r"leave callbacks\.text_cache out"):
        Joint({"label": Label(3), "none": Unconditional()}).cache(["a"], None)


def test_several_pictures_are_signals_of_their_own_each_dropped_on_its_own():
    parts = {"edges": Image(1, 0.5, name="edges", entry="edges"), "before": Image(3, 0.5, name="before")}
    both = {"edges": torch.ones(N, 1, 1, 1), "hint": torch.ones(N, 3, 1, 1)}
    cond = Joint(parts)(both, generator())
    lost = torch.stack([~cond.signals[name].known for name in ("edges", "before")]).double()
    rates = lost @ lost.T / N
    assert ((rates - torch.tensor([[0.5, 0.25], [0.25, 0.5]])).abs() < 5 * 0.5 / N**0.5).all()
    assert cond.signals["edges"].x.shape[1] == 1 and cond.signals["before"].x.shape[1] == 3
    with pytest.raises(UserError, match=r"2 parts .* signal image; .*name"):
        Joint({"a": Image(1), "b": Image(3, entry="b")})
