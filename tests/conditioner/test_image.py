"""Pictures that are computed: what is random of them follows from the sample, and not from how the work is divided."""

from itertools import pairwise

import pytest
import torch

from oboro.base.draws import BatchGenerator
from oboro.base.errors import UserError
from oboro.condition import Condition
from oboro.conditioner import Image, Joint, Label
from oboro.data import Population
from oboro.hint import Edges, MaskAny, MaskBox
from oboro.modality import from_uint8

N = 12


@pytest.fixture
def x(normal):
    return normal(N, 1, 8, 8).clamp(-1, 1).float()


def image(name="image", **keywords):
    return Image(1, 0.3, name=name, hint=MaskAny(1), **keywords)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_micro_batches_and_ranks_have_the_holes_and_the_drops_of_one_process(x):
    conditioner = Joint({"label": Label(3, 0.5), "image": image(), "mask": image("mask")})
    batch = {"x": x, "label": torch.arange(N) % 3, "index": torch.arange(N)}
    whole = conditioner(batch, generator(5))
    for part in torch.randperm(N, generator=generator()).chunk(3):
        g = BatchGenerator(generator(5), 77, part, N)
        assert conditioner({key: value[part] for key, value in batch.items()}, g) == whole.rows(part)
    assert whole != conditioner(batch, generator(6))
    assert not torch.equal(whole.signals["image"].known, whole.signals["mask"].known)


def test_the_hole_of_a_held_out_sample_follows_from_its_index(x):
    batch = {"x": x, "index": torch.arange(40, 40 + N)}
    kept = image().keep(batch)
    shuffled = torch.randperm(N, generator=generator())
    assert image().keep({key: value[shuffled] for key, value in batch.items()}) == kept.rows(shuffled)
    known = image().keep({"x": x[:1].expand(N, -1, -1, -1), "index": batch["index"]}).signals["image"].known
    assert len({tuple(row.flatten().tolist()) for row in known}) > N // 2  # of one picture, different holes


def test_a_hint_that_is_computed_draws_nothing_unless_it_is_random(x):
    """So that a picture trains as the same picture does that the data bring."""
    computed, given = Image(1, 0.3, hint=Edges()), Image(1, 0.3)
    hints = {"hint": Edges()(x).x}
    assert computed({"x": x}, generator()) == given(hints, generator())


def test_generated_samples_have_the_pictures_of_one_population(x):
    pictures = (255 * torch.rand(30, 1, 8, 8, generator=generator())).to(torch.uint8)
    conditioner = Image(1, hint=Edges())
    conditioner.check(Population(samples=pictures))
    rows = conditioner.sample_batch(range(7, 20), Population(samples=pictures))["x"]
    assert all((from_uint8(pictures) == row).flatten(1).all(1).any() for row in rows)
    cond = conditioner.for_samples(range(7, 20), Population(samples=pictures))
    assert cond == Condition({"image": Edges()(rows)})
    parts = [conditioner.for_samples([i], Population(samples=pictures)) for i in range(7, 20)]
    assert all(part == cond.rows([i]) for i, part in enumerate(parts))


def test_pictures_during_training_have_holes_of_their_own(x):
    conditioner = Image(1, hint=MaskBox(1))
    conditioner.check(Population(samples=(255 * torch.rand(30, 1, 8, 8)).to(torch.uint8)))
    known = conditioner.for_samples(range(16), None).signals["image"].known
    assert any(not torch.equal(a, b) for a, b in pairwise(known[::8])) and conditioner.pictures(range(2))


def test_what_the_data_lack_is_said():
    series = Population(samples=torch.zeros(5, 1, 8))
    with pytest.raises(UserError, match=r"hint Edges is made of pictures and the samples are none"):
        Image(1, hint=Edges()).check(series)
    grey = Population(samples=torch.zeros(5, 1, 8, 8, dtype=torch.uint8), hints={"edges": torch.zeros(5, 1, 8, 8)})
    with pytest.raises(UserError, match=r"second picture \(hint\) .* have only edges; .*data\.hints=.*hint=edges"):
        Image(1).check(grey)
    with pytest.raises(UserError, match=r"have 1 channel and .*image_channels is 3; set it to 1"):
        Image(3, hint=Edges()).check(grey)
