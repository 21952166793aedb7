"""The shipped classifier is what it says, and distances in its features order images as a person would."""

import argparse
import importlib.util
import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from oboro.base.errors import UserError
from oboro.extractor import Fashion
from oboro.extractor.fashion import WEIGHTS
from oboro.metrics import FeatureStatistics, frechet_distance

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_fashion_classifier.py"
ROUNDING = {"rtol": 0, "atol": 1e-4}  # features are of order 1


@pytest.fixture(scope="module")
def extractor():
    return Fashion()


@pytest.fixture(scope="module")
def halves(fashion_images, extractor):
    """(2,000 images of the first half, float; statistics of their features; statistics of the other half)"""
    first, second = fashion_images[:2000], fashion_images[5000:]
    one, two = (FeatureStatistics.from_features(features(extractor, half)) for half in (first, second))
    return first.float(), one, two


def features(extractor, images):
    return torch.cat([extractor(part)["features"] for part in images.split(100)])


def distance(extractor, pixels, reference):
    images = pixels.round().clamp(0, 255).to(torch.uint8)
    return frechet_distance(FeatureStatistics.from_features(features(extractor, images)), reference)


def test_the_weights_are_as_accurate_as_their_label_says(extractor, fashion_images, fashion_labels):
    with safe_open(WEIGHTS, "pt") as file:
        claimed = json.loads(file.metadata()["origin"])["test_accuracy"]
    measured = (
        (torch.cat([extractor(x, ["logits"])["logits"] for x in fashion_images.split(100)]).argmax(1) == fashion_labels)
        .double()
        .mean()
        .item()
    )
    assert measured == pytest.approx(claimed, abs=5e-4)
    assert measured >= 0.93
    assert WEIGHTS.stat().st_size < 1_000_000


def test_worse_images_are_further_away(extractor, halves, rng):
    """Real against real < a one-pixel shift < blur < stronger blur; noise grows without exception."""
    pixels, first, reference = halves
    floor = frechet_distance(first, reference)
    blurred = [distance(extractor, F.avg_pool2d(pixels, k, 1, k // 2), reference) for k in (3, 5)]
    shifted = distance(extractor, pixels.roll(1, 3), reference)
    assert 3 * floor < shifted < blurred[0] < blurred[1]
    assert 20 * floor < blurred[0]
    noise = torch.randn(pixels.shape, generator=rng)
    noisy = [distance(extractor, pixels + level * noise, reference) for level in (0, 5, 10, 20, 40, 80)]
    assert all(b > 1.4 * a for a, b in itertools.pairwise(noisy))
    pure = distance(extractor, 255 * torch.rand(pixels.shape, generator=rng), reference)
    assert pure > noisy[-1] > 200 * floor


def test_a_collapsed_generator_is_far_away(extractor, halves, fashion_images, fashion_labels):
    """One class alone is farther than every class slightly wrong, and one image repeated is worse than its class."""
    _, first, reference = halves
    floor = frechet_distance(first, reference)
    for label in range(10):
        of_class = fashion_images[fashion_labels == label][:300].float()
        collapsed = distance(extractor, of_class, reference)
        assert collapsed > 100 * floor
        assert distance(extractor, of_class[:1].expand(300, -1, -1, -1), reference) > collapsed


def test_more_missing_classes_are_further_away(extractor, halves, fashion_images, fashion_labels):
    _, _, reference = halves
    images, labels = fashion_images[:2000].float(), fashion_labels[:2000]
    left = [distance(extractor, images[labels < k], reference) for k in (10, 8, 6, 4, 2)]
    assert left == sorted(left)


def test_mixed_precision_of_the_run_does_not_reach_the_features(extractor, fashion_images):
    outputs = ["features", "logits"]
    expected = extractor(fashion_images[:20], outputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = extractor(fashion_images[:20], outputs)
    assert all(torch.equal(found[name], expected[name]) for name in outputs)


def test_grey_as_colour_is_the_same_image(extractor, fashion_images):
    grey = fashion_images[:20]
    torch.testing.assert_close(features(extractor, grey.expand(-1, 3, -1, -1)), features(extractor, grey), **ROUNDING)


def test_a_flat_image_has_no_size(extractor):
    flat = [torch.full((1, 1, *size), 77, dtype=torch.uint8) for size in ((28, 28), (64, 64), (9, 40))]
    for image in flat[1:]:
        torch.testing.assert_close(features(extractor, image), features(extractor, flat[0]), **ROUNDING)


def test_resizing_averages_and_does_not_skip(extractor):
    """A fine checkerboard is grey from afar; a resize without antialiasing would see one of its colours."""
    board = torch.zeros(1, 1, 112, 112, dtype=torch.uint8)
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = 200
    grey = torch.full((1, 1, 28, 28), 100, dtype=torch.uint8)
    inner = features(extractor, board) - features(extractor, grey)
    black = features(extractor, torch.zeros_like(grey)) - features(extractor, grey)
    assert inner.norm() < 0.1 * black.norm()


def test_missing_weights_say_what_to_do(tmp_path):
    extractor = Fashion(weights_path=str(tmp_path / "none.safetensors"))
    for call in (extractor.prepare, lambda: extractor.load("cpu")):
        with pytest.raises(UserError, match="are missing: reinstall"):
            call()


def test_weights_of_something_else_end_in_one_line(tmp_path):
    good = load_file(WEIGHTS)
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "vast.safetensors").write_bytes((10**13).to_bytes(8, "little") + b"{}")
    (tmp_path / "cut.safetensors").write_bytes(WEIGHTS.read_bytes()[:5000])
    save_file({"x": torch.zeros(3)}, tmp_path / "other.safetensors")
    save_file({**good, "head.bias": torch.zeros(11)}, tmp_path / "wide.safetensors")
    for name in ("text", "vast", "cut", "other", "wide"):
        path = tmp_path / f"{name}.safetensors"
        with pytest.raises(UserError, match=f"{name}.safetensors does not hold the weights of a classifier"):
            Fashion(str(path)).load("cpu")
    save_file({**good, "head.bias": torch.full((10,), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match=r"hold NaN or infinity in head\.bias; get the file again"):
        Fashion(str(tmp_path / "nan.safetensors")).load("cpu")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_fashion_classifier", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_folding_does_not_change_the_trained_function(script, fashion_images, fashion_labels):
    args = argparse.Namespace(
        seed=0, epochs=2, batch_size=50, lr=3e-3, weight_decay=0.05, dropout=0.2, shift=1, erase=8
    )
    models = []
    folded = script.train(
        fashion_images[:500], fashion_labels[:500], args, lambda epoch, network, loss: models.append(network)
    )
    assert script.accuracy(folded, fashion_images[500:1500], fashion_labels[500:1500]) > 0.4
    torch.manual_seed(0)
    model = script.TrainingNetwork(dropout=0.2)
    x = script.standardise(fashion_images[:64])
    for _ in range(3):
        model(x + torch.randn(x.shape))  # running statistics far from (0, 1)
    model.eval()
    plain = model.fold()
    torch.testing.assert_close(plain.head(plain(x)), model(x), rtol=1e-4, atol=1e-5)


def test_augmentation_without_shift_and_erasing_is_the_image_or_its_mirror(script, fashion_images, rng):
    images = fashion_images[:64]
    found = script.augment(images, rng, shift=0, erase=0)
    same = (found == images).flatten(1).all(1)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all() and same.any() and mirrored.any()
