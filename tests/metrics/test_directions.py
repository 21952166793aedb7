"""What every metric says of generators that fail in a known way: real pictures, spoiled on purpose."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf

import oboro.data
from oboro.extractor import Fashion
from oboro.metrics import Held, Metric, look_at, measure

CONF = Path(__file__).parents[2] / "conf" / "metrics"
ASSETS = Path(oboro.data.__file__).parent / "assets"
SKIPPED = {"frechet_spatial", "cmmd", "clip_score"}  # of other extractors
N = 500


def idx(name: str, offset: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress((ASSETS / name).read_bytes()), np.uint8, offset=offset).copy()


@pytest.fixture(scope="module")
def values():
    """``{generator: {name: value}}`` of every configured metric, against 3,000 real images."""
    images = torch.from_numpy(idx("t10k-images-idx3-ubyte.gz", 16)).view(-1, 1, 28, 28)
    labels = torch.from_numpy(idx("t10k-labels-idx1-ubyte.gz", 8)).long()
    g = torch.Generator().manual_seed(0)
    fresh, of_fresh, train = images[:N], labels[:N], slice(5000, 8000)
    noise = torch.randn(fresh.shape, generator=g)
    trousers = images[:5000][labels[:5000] == 1][:N]
    spoiled = {
        "real": (fresh, of_fresh),
        "shifted": (fresh.roll(2, 3), of_fresh),
        "blurred": (F.avg_pool2d(fresh.float(), 5, 1, 2), of_fresh),
        "noisy": (fresh + 40 * noise, of_fresh),
        "noise": (255 * torch.rand(fresh.shape, generator=g), of_fresh),
        "collapsed": (trousers, torch.ones(len(trousers), dtype=torch.int64)),
        "memorised": (images[train][:N] + 3 * noise, labels[train][:N]),
        "repeated": (fresh[:50].repeat(10, 1, 1, 1), of_fresh[:50].repeat(10)),
        "mislabelled": (fresh, of_fresh.roll(1)),
    }
    extractor, outputs = Fashion(), ["features", "logits"]
    options = [path for path in sorted(CONF.glob("*.yaml")) if path.stem not in SKIPPED]
    metrics = {path.stem: instantiate(OmegaConf.load(path)) for path in options}
    metrics = {name: metric for name, metric in metrics.items() if isinstance(metric, Metric)}  # others see no features
    reference = Held(look_at(images[train], extractor, outputs, labels[train]))
    found = {}
    for name, (pixels, classes) in spoiled.items():
        pixels = pixels.float().round().clamp(0, 255).to(torch.uint8)
        bank = look_at(pixels, extractor, outputs, classes)
        made = measure(metrics, extractor, bank, reference)
        found[name] = {key.split("_fashion_")[0]: value for key, value in made.items()}
    return found


DISTANCES = ("fd", "kd", "sw", "class_fd")


@pytest.mark.parametrize("metric", DISTANCES)
def test_distances_grow_with_the_damage(values, metric):
    order = [values[name][metric].value for name in ("real", "shifted", "blurred", "noise")]
    assert order == sorted(order)
    assert order[1] > 2 * max(order[0], 0) and order[3] > 5 * order[1]
    assert values["real"][metric].value < values["noisy"][metric].value < values["noise"][metric].value


@pytest.mark.parametrize("metric", ["fd", "kd", "sw"])
def test_distances_see_a_collapse_and_do_not_see_copies(values, metric):
    """The reason for the audit: a generator that repeats the training set has a better distance than a perfect one."""
    assert values["collapsed"][metric].value > 10 * abs(values["real"][metric].value)
    assert values["memorised"][metric].value < 1.2 * abs(values["real"][metric].value) + 1e-3


def test_a_collapse_keeps_precision_and_loses_recall(values):
    real, collapsed = values["real"], values["collapsed"]
    assert collapsed["precision"].value > real["precision"].value - 0.05 and collapsed["precision"].value > 0.8
    assert collapsed["recall"].value < 0.3 < 0.7 < real["recall"].value
    assert collapsed["coverage"].value < 0.2 < 0.5 < real["coverage"].value
    assert collapsed["density"].value > 0.7


def test_damage_loses_precision(values):
    for metric in ("precision", "density"):
        found = [values[name][metric].value for name in ("real", "blurred", "noise")]
        assert found[0] > 1.3 * found[1] > 1.3 * found[2]


def test_the_score_is_high_for_sure_and_varied_answers(values):
    scores = {name: values[name]["score"].value for name in values}
    assert 7 < scores["real"] <= 10
    assert scores["collapsed"] < 1.5 and scores["noise"] < 2.5 and scores["blurred"] < scores["real"]


def test_copies_of_training_images_are_found(values):
    """Slightly noisy copies; a fresh set of real images is the measure of innocence."""
    real, copies = values["real"], values["memorised"]
    assert copies["authenticity"].value < 0.05 and real["authenticity"].value > 0.5
    assert copies["copied"].value > 0.8 and real["copied"].value < 0.05
    assert copies["nn_ratio"].value < 0.3 < 0.7 < real["nn_ratio"].value
    pairs = copies["authenticity"].detail["closest"]
    assert all(pair["sample"] == pair["training"] and pair["ratio"] < 0.2 for pair in pairs)
    assert abs(real["authenticity"].value - real["authenticity"].real) < 0.08


def test_repetitions_are_found(values):
    assert values["repeated"]["duplicates"].value == 1 and values["real"]["duplicates"].value < 0.02


def test_labels_that_are_ignored_are_found(values):
    """The same images: no metric but these two reads a label."""
    real, wrong = values["real"], values["mislabelled"]
    assert real["accuracy"].value > 0.9 > 0.3 > wrong["accuracy"].value
    assert wrong["class_fd"].value > 5 * real["class_fd"].value
    labelled = {"accuracy", "class_fd"}
    assert all(wrong[name].value == real[name].value for name in real.keys() - labelled)


def test_real_images_score_what_held_back_real_images_score(values):
    """The number that stands beside every value, from 500 images taken out of the reference."""
    for name, value in values["real"].items():
        assert value.real_n == N
        if name in ("precision", "recall", "density", "coverage", "score", "accuracy", "authenticity"):
            assert value.value == pytest.approx(value.real, rel=0.12), name
        if name in ("fd", "sw", "class_fd"):
            assert 0.5 < value.value / value.real < 2, name
    low, high = values["real"]["kd"].interval
    assert low < 0 < high
