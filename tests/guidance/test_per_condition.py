"""Guidance with a scale for each condition: arXiv:2211.09800, eq. 3."""

from itertools import accumulate

import pytest
import torch
from torch import nn

from guidance.test_classifier_free import Calls
from oboro.condition import Condition, Label
from oboro.denoiser import Denoiser
from oboro.guidance import ClassifierFree, PerCondition
from oboro.parameterization import V
from oboro.schedule import VP, expand_as

T = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
NAMES = ("image", "text", "sound")
COND = Condition({name: Label(torch.tensor([3, 1, 2]) + 4 * k) for k, name in enumerate(NAMES)})


class Nonlinear(nn.Module):
    """Every set of conditions has an answer of its own."""

    reads = dict.fromkeys(NAMES, Label)

    def forward(self, x, c_noise, signals):
        shift = sum((signal.index.double() + 1) ** 0.5 for signal in signals.values())
        return torch.sin(x + expand_as(torch.as_tensor(shift), x)) if signals else torch.sin(x)


@pytest.fixture
def denoiser():
    return Denoiser(Nonlinear(), VP(), V())


@pytest.fixture
def x_t(normal):
    return normal(3, 2)


@pytest.mark.parametrize("scales", [(1.5, 7.5, 2.0), (0.0, 3.0, -1.0), (2.0, 2.0, 1.0), (1.0, 1.0, 4.0)])
def test_it_is_the_sum_over_conditions_that_are_added_one_by_one(denoiser, x_t, scales):
    """And it asks no more often than neighbouring scales differ."""
    prefixes = list(accumulate(([name] for name in NAMES), initial=[]))
    ladder = [denoiser(x_t, T, COND.only(*names)) for names in prefixes]
    expected = ladder[0] + sum(s * (b - a) for s, a, b in zip(scales, ladder, ladder[1:], strict=False))
    calls = Calls(denoiser)
    guided = PerCondition(dict(zip(NAMES, scales, strict=True)))(calls, [])(x_t, T, COND)
    torch.testing.assert_close(guided, expected, rtol=1e-9, atol=1e-9)
    assert len(calls.conds) == 1 + sum(a != b for a, b in zip((1.0, *scales), scales, strict=False))


def test_one_condition_is_classifier_free_guidance_to_the_last_bit(denoiser, x_t):
    cond = COND.only("text")
    for scale in (0.0, 1.0, 7.5):
        both = (guidance(denoiser, []) for guidance in (PerCondition({"text": scale}), ClassifierFree(scale)))
        one, other = (guided(x_t, T, cond) for guided in both)
        assert torch.equal(one, other)


def test_with_all_scales_1_nothing_happens(denoiser):
    guidance = PerCondition(dict.fromkeys(NAMES, 1.0))
    assert guidance(denoiser, []) is denoiser and not guidance.drops and not guidance.leaves_out(NAMES)


def test_conditions_without_a_scale_are_always_there_and_a_stated_opposite_takes_the_place_of_none(denoiser, x_t):
    away = {"text": Label(torch.tensor([9, 9, 9]))}
    cond = Condition(COND.signals, away)
    guided = PerCondition({"text": 3.0})(denoiser, [])(x_t, T, cond)
    bound, free = denoiser(x_t, T, COND), denoiser(x_t, T, Condition({**COND.signals, **away}))
    torch.testing.assert_close(guided, free + 3 * (bound - free), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scales", [(1.5, 7.5, 2.0), (2.0, 2.0, 1.0), (1.0, 1.0, 4.0), (1.0, 1.0, 1.0)])
def test_what_training_must_drop_is_what_it_asks_without(denoiser, x_t, scales):
    calls, guidance = Calls(denoiser), PerCondition(dict(zip(NAMES, scales, strict=True)))
    guidance(calls, [])(x_t, T, COND)
    missing = {name for cond in calls.conds for name in NAMES if name not in cond.signals}
    assert guidance.leaves_out(NAMES) == missing
