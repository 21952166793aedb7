"""CLIP's towers: what padding, companions and places may change, and the temperature."""

import copy
from math import log

import pytest
import torch

from oboro.base.errors import UserError
from oboro.model import CLIP, ConvTower, TextTower, VisionTransformer

CAPTIONS = ["a red apple", "a photo of a grey boot", "boot", "a very long caption about a red boot and an apple"]


@pytest.fixture
def text(randomise):
    def make(length: int = 12) -> TextTower:
        with torch.random.fork_rng():
            tower = TextTower(300, length, 16, 2, 2, 6)
        tower = randomise(tower).double().eval()
        tower.tokenizer.fit(CAPTIONS)
        return tower

    return make


@pytest.fixture(params=["VisionTransformer", "ConvTower"])
def image(request, randomise):
    with torch.random.fork_rng():
        made = {
            "VisionTransformer": lambda: VisionTransformer(3, 6, patch=4, dim=16, depth=2, heads=2),
            "ConvTower": lambda: ConvTower(3, 6, [8, 16, 16]),
        }[request.param]()
    return randomise(made).double().eval()


def test_padding_changes_nothing(text):
    """Of a text tower with more room, of what lies in the padding, and of companions in the batch."""
    short, long = text(12), text(20)
    long.load_state_dict({**short.state_dict(), "place": torch.cat([short.place, torch.randn(8, 16).double()])})
    ids, mask = short.tokenizer(CAPTIONS[:3])
    tokens, pooled = short(ids, mask)
    more_tokens, more = long(*long.tokenizer(CAPTIONS[:3]))
    torch.testing.assert_close(more, pooled)
    torch.testing.assert_close(more_tokens[:, :12][mask], tokens[mask])
    garbage = torch.where(mask, ids, torch.randint(300, ids.shape))
    torch.testing.assert_close(short(garbage, mask)[1], pooled)
    torch.testing.assert_close(short(ids[1:2], mask[1:2])[1], pooled[1:2])


def test_the_text_is_its_end_token_projected_and_hears_every_token(text):
    tower = text()
    ids, mask = tower.tokenizer(CAPTIONS)
    tokens, pooled = tower(ids, mask)
    for row, (there, vector) in enumerate(zip(mask, pooled, strict=True)):
        end = int(there.sum()) - 1
        torch.testing.assert_close(vector, tower.proj(tokens[row, end]))
        for place in range(1, end):
            other = ids[row : row + 1].clone()
            other[0, place] += 1
            assert (tower(other, there[None])[1] - vector).abs().max() > 1e-3
    swapped = ids[:1].clone()
    swapped[0, [1, 2]] = ids[0, [2, 1]]
    assert (tower(swapped, mask[:1])[1] - pooled[:1]).abs().max() > 1e-3  # and where it stands


def test_an_image_is_one_vector_that_sees_every_pixel_and_its_place(image, normal):
    x = normal(3, 3, 16, 16).requires_grad_()
    found = image(x)
    assert found.shape == (3, 6)
    (gradient,) = torch.autograd.grad(found[1].square().sum(), x)
    assert (gradient[1].abs() > 0).all() and (gradient[[0, 2]] == 0).all()
    assert (image(x.flip(-1)) - found).abs().max() > 1e-3
    patches = x.unflatten(2, (4, 4)).roll(1, 2).flatten(2, 3)  # the same patches in other rows
    assert (image(patches) - found).abs().max() > 1e-3


def test_both_sides_are_unit_vectors_and_forward_is_both(image, text, normal):
    clip = CLIP(image, text())
    x = normal(4, 3, 16, 16)
    vectors = clip.encode_image(x), clip.encode_text(CAPTIONS)
    for vector, same in zip(vectors, clip(x, *clip.tokenize(CAPTIONS)), strict=True):
        torch.testing.assert_close(vector, same)
        torch.testing.assert_close(vector.norm(dim=1), torch.ones(4).double())


def test_half_precision_gives_unit_vectors_in_single(image, text, normal):
    clip = CLIP(image, text()).bfloat16()
    assert (clip.encode_image(normal(2, 3, 16, 16).bfloat16()).norm(dim=1) - 1).abs().max() < 1e-6


def test_many_texts_are_those_of_single_ones(image, text):
    clip = CLIP(image, text())
    many = [f"{caption} {i}" for i in range(130) for caption in CAPTIONS[:2]]
    found = clip.encode_text(many)
    assert found.shape == (260, 6)
    torch.testing.assert_close(found[[0, 255, 256, 259]], clip.encode_text([many[i] for i in (0, 255, 256, 259)]))


@torch.no_grad()
def value(clip):
    return float(clip.scale())


def test_the_scale_starts_where_it_is_told_and_stays_below_a_hundred(image, text):
    clip = CLIP(image, text(), scale=10.0, bias=-10.0).double()
    assert value(clip) == pytest.approx(10) and clip.bias.item() == -10
    assert CLIP(image, text()).bias is None
    clip.log_scale.data.fill_(9.0)
    clip.scale().backward()
    assert value(clip) == pytest.approx(100) and clip.log_scale.item() == pytest.approx(log(100))
    assert clip.log_scale.grad.item() == pytest.approx(100)  # it can leave the bound again


def test_the_state_holds_the_tokenizer(image, text):
    clip = CLIP(image, text())
    fresh = copy.deepcopy(clip)
    fresh.text.tokenizer.fit(["other words altogether"])
    fresh.load_state_dict(clip.state_dict())
    assert torch.equal(fresh.encode_text(CAPTIONS), clip.encode_text(CAPTIONS))


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"model\.text\.heads"):
        TextTower(300, 8, 16, 1, 3, 6)
    with pytest.raises(UserError, match=r"model\.image\.dim"):
        VisionTransformer(3, 6, 4, 16, 1, 3)
