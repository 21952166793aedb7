"""Features that no generator should give: every metric answers with a finite number, or its name and the reason."""

import json
import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from oboro.base.errors import UserError
from oboro.metrics import Bank, FrechetPerClass, Held, Metric
from oboro.metrics.metric import check, compute
from oboro.metrics.real_floor import real_floor

CONF = Path(__file__).parents[2] / "conf" / "metrics"
OPTIONS = {path.stem: instantiate(OmegaConf.load(path)) for path in sorted(CONF.glob("*.yaml"))}
METRICS = {name: metric for name, metric in OPTIONS.items() if isinstance(metric, Metric)}
D = 6


def bank(features, labels=None):
    """``features`` (n, D) as every output, and as embeddings of texts; labels 0, 1, 0, 1, …"""
    labels = torch.arange(len(features)) % 2 if labels is None else labels
    texts = torch.nan_to_num(features, 0, 0, 0)
    return Bank(dict.fromkeys(("features", "logits", "spatial"), features), labels, texts)


def spoiled(value):
    features = normal(20)
    features[3, 2] = value
    return features


def normal(n, seed=0):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


NUMBERS = "numbers"
CASES = {  # generated, reference, what is expected: a part of every error, or numbers
    "NaN": (spoiled(math.nan), normal(30, 1), "hold NaN or infinity"),
    "infinity": (spoiled(math.inf), normal(30, 1), "hold NaN or infinity"),
    "NaN in the reference": (normal(20), spoiled(math.nan), "hold NaN or infinity"),
    "one row": (normal(1), normal(30, 1), "is undefined below"),
    "two rows": (normal(2), normal(30, 1), "is undefined below"),
    "two real rows": (normal(20), normal(2, 1), "is undefined below"),
    "constant": (torch.ones(20, D), normal(30, 1), NUMBERS),
    "all constant": (torch.ones(20, D), torch.ones(30, D), NUMBERS),
    "zero": (torch.zeros(20, D), torch.zeros(30, D), NUMBERS),
    "duplicates": (normal(2).repeat(10, 1), normal(30, 1), NUMBERS),
    "all duplicates": (normal(2).repeat(10, 1), normal(2).repeat(15, 1), NUMBERS),
    "the reference itself": (normal(30), normal(30), NUMBERS),
    "tiny": (1e-30 * normal(20), 1e-30 * normal(30, 1), NUMBERS),
    "large": (1e6 * normal(20), 1e6 * normal(30, 1), NUMBERS),
    "largest": (3e38 * normal(20).sign(), normal(30, 1), "is undefined"),
}
NEEDS_NO_REFERENCE = {"accuracy", "clip_score", "inception_score"}


@pytest.mark.parametrize("case", CASES)
def test_every_metric_is_finite_or_says_why_not(case):
    generated, real, expected = CASES[case]
    for name, metric in METRICS.items():
        try:
            values = compute(name, metric, bank(generated), Held(bank(real)))
        except UserError as error:
            assert expected != NUMBERS, f"{name}: {error}"
            assert str(error).startswith(f"{name} is undefined") and "\n" not in str(error)
            assert expected in str(error) and str(error).endswith("metrics=[...].")
        else:
            # JSON of NaN is no JSON; neither is there NaN in what is told of a value.
            json.dumps([value.plain() for value in values.values()], allow_nan=False)
            few = case in ("one row", "two rows", "two real rows") and len(generated) >= metric.least
            unaffected = case == "NaN in the reference" and name in NEEDS_NO_REFERENCE
            robust = case == "largest"  # counts and ranks overflow nowhere
            assert expected == NUMBERS or few or unaffected or robust, f"{name} gave {values}"


def test_classes_that_are_absent_are_counted_or_end_in_a_reason():
    metric, real = FrechetPerClass(), bank(normal(30, 1), torch.arange(30) % 3)
    some = compute("class", metric, bank(normal(20), torch.arange(20) % 2), Held(real))["class_fd"]
    assert set(some.detail["classes"]) == {0, 1} and math.isfinite(some.value)
    assert some.warning == "1 of 3 classes (2) has fewer than two images a side, so this is a mean over 2"
    whole = compute("class", metric, bank(normal(21), torch.arange(21) % 3), Held(real))["class_fd"]
    assert whole.warning == ""
    other = bank(normal(20), torch.full((20,), 7))
    with pytest.raises(UserError, match=r"^class is undefined: no class has two generated and two real im"):
        compute("class", metric, other, Held(real))
    rare = Held(bank(normal(9, 1), torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7])))
    assert math.isfinite(compute("class", metric, bank(normal(20), torch.zeros(20).long()), rare)["class_fd"].value)
    assert real_floor(metric, rare, 4) == {}, "two of the class are on one side of a split: no floor, and no error"


def test_too_few_samples_for_the_classes_are_refused_before_anything_is_drawn():
    check({"class": FrechetPerClass()}, 11, 100, {"label"}, classes=10)
    with pytest.raises(UserError, match=r"^class is undefined below 11 samples of 10 classes and there are 10"):
        check({"class": FrechetPerClass()}, 10, 100, {"label"}, classes=10)
