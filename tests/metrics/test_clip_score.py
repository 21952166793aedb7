import math

import numpy as np
import pytest
import torch
from torch import nn

from oboro.metrics import clip_score as module
from oboro.metrics.bank import Bank
from oboro.metrics.clip_score import CMMD, clip_score, cmmd, spread
from oboro.metrics.reference import Held


def normal(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


# --- images and their texts


def test_a_known_angle_scores_its_cosine():
    images, texts = torch.tensor([[3.0, 0], [0, 2], [1, 0], [1, 1]]), torch.tensor([[1.0, 1], [0, 5], [-1, 0], [1, -1]])
    expected = [100 * math.sqrt(0.5), 100, 0, 0]
    assert clip_score(images, texts).tolist() == pytest.approx(expected, abs=1e-12)


def test_lengths_do_not_matter_and_the_order_of_pairs_stays(rng):
    images, texts = normal(rng, 6, 8), normal(rng, 6, 8)
    found = clip_score(images, texts)
    scale = normal(rng, 6, 1).abs() + 0.1
    torch.testing.assert_close(clip_score(images * scale, texts / scale), found)
    order = torch.randperm(6, generator=rng)
    assert torch.equal(clip_score(images[order], texts[order]), found[order])
    assert found.max() > 0 == found.min(), "some pairs are clipped"


def test_scores_are_those_of_torchmetrics(rng):
    """Pair by pair; of a set it clips the mean, so that pairs with negative cosines count against the others."""
    pytest.importorskip("transformers")
    from torchmetrics.functional.multimodal import clip_score as theirs

    class Given(nn.Module):
        """Pixels and token numbers are the embeddings already."""

        def get_image_features(self, pixels):
            return pixels.flatten(1)

        def get_text_features(self, ids, mask):
            return ids

    def processor(images=None, text=None, **unused):
        if images is not None:
            return {"pixel_values": torch.stack(images)}
        return {"input_ids": texts[[int(t) for t in text]], "attention_mask": torch.ones(len(text), 1)}

    model = Given()
    model.config = None
    images, texts = normal(rng, 8, 12), normal(rng, 8, 12)

    def score(rows):
        pixels = [images[i].view(3, 2, 2) for i in rows]
        return theirs(pixels, [str(i) for i in rows], model_name_or_path=lambda: (model, processor)).item()

    found = clip_score(images, texts)
    assert found.tolist() == pytest.approx([score([i]) for i in range(8)], rel=1e-9)
    positive = [i for i in range(8) if found[i] > 0]
    assert 1 < len(positive) < 8
    assert found[positive].mean().item() == pytest.approx(score(positive), rel=1e-9)
    assert found.mean().item() > score(range(8)) + 1


def test_pairs_are_required(rng):
    with pytest.raises(ValueError, match="3 images and 4 texts"):
        clip_score(normal(rng, 3, 5), normal(rng, 4, 5))


# --- two sets of images


def by_loops(x, y):
    """The definition, over all pairs."""

    def k(a, b):
        return math.exp(-float((a - b).square().sum()) / (2 * 10**2))

    def mean(p, q):
        return sum(k(a, b) for a in p for b in q) / (len(p) * len(q))

    x, y = unit(x), unit(y)
    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


@pytest.mark.parametrize("block", [1, 4, 1024])
def test_the_value_is_the_definition(block, rng, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    x, y = 3 * normal(rng, 9, 5) + 1, normal(rng, 7, 5)
    found = cmmd(x, y)
    assert found == pytest.approx(by_loops(x, y), rel=1e-9)
    assert cmmd(x, y, spread(y)) == found
    assert cmmd(y, x) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("degrees", [6e-4, 7e-4, 8e-4, 1, 60, 180])
def test_two_points(degrees):
    """All images alike on both sides: 2000 (1 - exp(-(1 - cos) / 100)), at most 39.6; five digits stay at 6e-4°."""
    angle = math.radians(degrees)
    x = torch.tensor([[7.0, 0.0]], dtype=torch.float64).expand(4, 2)
    y = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64).expand(3, 2)
    one_minus_cos = 2 * math.sin(angle / 2) ** 2
    assert cmmd(x, y) == pytest.approx(-2000 * math.expm1(-one_minus_cos / 100), rel=1e-5, abs=0)
    assert cmmd(x, y) < 39.61


def test_a_set_is_at_no_distance_from_itself_and_none_is_negative(rng):
    x = normal(rng, 50, 16)
    assert abs(cmmd(x, x[torch.randperm(50, generator=rng)])) < 1e-10
    assert all(cmmd(normal(rng, 20, 16), normal(rng, 30, 16)) > 0 for _ in range(20)), "the biased estimate"


def test_it_exceeds_the_unbiased_estimate_by_the_diagonal(rng):
    """mean over pairs of different images of 1 - k is n / (n - 1) times that over all pairs."""
    x, y = normal(rng, 20, 16), normal(rng, 30, 16) + 0.5

    def off_diagonal(z):
        cos = unit(z) @ unit(z).T
        return (1 - torch.exp((cos - 1) / 100)).sum().item() / (len(z) * (len(z) - 1))

    cross = (1 - torch.exp((unit(x) @ unit(y).T - 1) / 100)).mean().item()
    unbiased = 1000 * (2 * cross - off_diagonal(x) - off_diagonal(y))
    excess = cmmd(x, y) - unbiased
    assert excess == pytest.approx(1000 * (spread(x) / 19 + spread(y) / 29), rel=1e-8)
    assert 0 < excess < 20 * (1 / 20 + 1 / 30)


def test_it_grows_with_the_shift(rng):
    x, y = normal(rng, 200, 16) + 1, normal(rng, 200, 16) + 1
    direction = normal(rng, 16)
    values = [cmmd(x + shift * direction, y) for shift in (0, 0.3, 0.6, 1.2)]
    assert values == sorted(values) and values[-1] > 10 * values[0]


def test_float32_would_not_do(rng):
    """The same sum in float32, as in the authors' code, is off by 1e-4 or so where the value is 1e-2."""
    x, y = normal(rng, 300, 64) + 2, normal(rng, 300, 64) + 2.05
    a, b = unit(x).float(), unit(y).float()
    single = 1000 * sum(
        w * torch.exp(-torch.cdist(p, q).square() / 200).mean() for w, p, q in ((1, a, a), (1, b, b), (-2, a, b))
    )
    assert abs(single.item() - cmmd(x, y)) > 1e-5
    assert cmmd(a, b) == pytest.approx(cmmd(x, y), rel=1e-4)


def test_the_metric_is_the_function_and_keeps_what_does_not_change(rng):
    x, y = normal(rng, 12, 8).float(), normal(rng, 15, 8).float() + 0.3
    reference = Held(Bank({"features": y}))
    for generated in (x, x + 1):
        (value,) = CMMD()(Bank({"features": generated}), reference).items()
        assert value[0] == "cmmd" and value[1].better == -1
        assert value[1].value == cmmd(generated, y)
    assert [float(arrays["spread"]) for arrays in reference._kept.values()] == [spread(y)]


def test_bad_features_are_refused(rng):
    with pytest.raises(ValueError, match="one d"):
        cmmd(normal(rng, 3, 4), normal(rng, 3, 5))
    with pytest.raises(ValueError, match="NaN"):
        cmmd(torch.full((3, 4), np.nan), normal(rng, 3, 4))
