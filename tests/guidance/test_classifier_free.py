from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import nn

from oboro.condition import Condition, Label
from oboro.denoiser import Denoiser
from oboro.denoiser.exact import GaussianDenoiser
from oboro.guidance import CFGPP, CFGZeroStar, ClassifierFree, Unguided
from oboro.guidance.weight import Constant, Cosine, Interval
from oboro.guidance.weight import Linear as LinearWeight
from oboro.parameterization import EDM
from oboro.sampler import DATA, DDIM, nodes
from oboro.schedule import VP, Linear, expand_as

pytestmark = pytest.mark.usefixtures("global_generator_unread")

T = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
COND = Condition.of(label=Label(torch.tensor([0, 1, 2])))


@pytest.fixture
def denoiser(small_unet):
    return Denoiser(small_unet(num_classes=3), Linear(), EDM()).requires_grad_(False)


@pytest.fixture
def x_t(normal):
    return normal(3, 1, 8, 8)


class Calls:
    """A denoiser that lists the conditions it is asked for."""

    def __init__(self, denoiser):
        self.denoiser, self.schedule, self.conds = denoiser, denoiser.schedule, []

    def __call__(self, x_t, t, cond):
        self.conds.append(cond)
        return self.denoiser(x_t, t, cond)

    def with_variance(self, x_t, t, cond):
        self.conds.append(cond)
        return self.denoiser.with_variance(x_t, t, cond)

    def towards(self, alpha, sigma):
        return self


def test_unguided_is_the_identity(denoiser):
    assert Unguided()(denoiser, []) is denoiser


def test_scale_1_is_the_conditional_model(denoiser, x_t):
    calls = Calls(denoiser)
    assert torch.equal(ClassifierFree(1.0)(calls, [])(x_t, T, COND), denoiser(x_t, T, COND))
    assert calls.conds == [COND]


def test_scale_0_is_the_unconditional_model(denoiser, x_t):
    unconditional = denoiser(x_t, T, Condition())
    torch.testing.assert_close(ClassifierFree(0.0)(denoiser, [])(x_t, T, COND), unconditional, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(unconditional, denoiser(x_t, T, COND))


def test_the_answer_is_linear_in_the_scale(denoiser, x_t):
    zero, three = (ClassifierFree(s)(denoiser, [])(x_t, T, COND) for s in (0.0, 3.0))
    conditional = denoiser(x_t, T, COND)
    torch.testing.assert_close(three, zero + 3 * (conditional - zero), rtol=1e-10, atol=1e-10)
    for scale in (-1.0, 0.5, 2.0, 7.5):
        between = zero + scale / 3 * (three - zero)
        torch.testing.assert_close(ClassifierFree(scale)(denoiser, [])(x_t, T, COND), between, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_it_evaluates_twice_with_and_without_the_condition(denoiser, x_t, scale):
    calls = Calls(denoiser)
    guided = ClassifierFree(scale)(calls, [])
    assert guided.schedule is denoiser.schedule
    guided(x_t, T, COND)
    assert sorted(calls.conds, key=len) == [Condition(), COND]


def test_steering_the_clean_image_is_steering_the_output_of_the_network(parameterization, normal, x_t):
    """Guidance commutes with the parameterization: it is the same map in eps, v or x̂0."""

    class Network(nn.Module):
        reads: ClassVar = {"label": Label}

        def forward(self, x, c_noise, cond):
            shift = expand_as(cond["label"].index + 1.0, x) if cond else 0
            return torch.sin(x + shift)

    class Steered(nn.Module):
        reads: ClassVar = {"label": Label}

        def forward(self, x, c_noise, cond):
            unconditional = Network()(x, c_noise, {})
            return unconditional + 2.5 * (Network()(x, c_noise, cond) - unconditional)

    guided = ClassifierFree(2.5)(Denoiser(Network(), VP(), parameterization), [])(x_t, T, COND)
    steered = Denoiser(Steered(), VP(), parameterization)(x_t, T, COND)
    torch.testing.assert_close(guided, steered, rtol=1e-9, atol=1e-9)


def test_the_variance_is_that_of_the_condition_and_costs_nothing(small_unet, x_t):
    """Every kind steers x̂0 as it does without a variance, and passes on the conditional v."""
    calls = Calls(Denoiser(small_unet(num_classes=3, learned_variance=True), Linear(), EDM()).requires_grad_(False))
    conditional, v = calls.with_variance(x_t, T, COND)
    kinds = (Unguided(), ClassifierFree(1.0), ClassifierFree(3.0, rescale=0.5), CFGPP(), CFGZeroStar())
    for guidance in kinds:
        guided = guidance(calls, [*nodes(Linear(), [0.95, 0.6]), DATA])
        calls.conds.clear()
        x0, same = guided.with_variance(x_t, T, COND)
        asked = len(calls.conds)
        assert torch.equal(same, v) and asked == 1 + guidance.drops
        assert torch.equal(x0, guided(x_t, T, COND)) and len(calls.conds) == 2 * asked
        assert torch.equal(x0, conditional) != guidance.drops


# --- weights over noise levels


@pytest.mark.parametrize("weight", [Constant(), LinearWeight(), Cosine()], ids=lambda w: type(w).__name__)
def test_weights_are_1_on_average_over_t(weight):
    t = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    factor = weight(t, Linear())
    assert float(factor.mean()) == pytest.approx(1, abs=1e-9) and (factor >= 0).all() and (factor.diff() <= 0).all()


def test_an_interval_is_meant_in_sigma_over_alpha(schedule):
    t = schedule.t_from_log_snr(-2 * torch.tensor([0.1, 0.49, 0.51, 1.9, 2.1], dtype=torch.float64).log())
    inside = (t >= 0) & (t <= 1)
    assert Interval(0.5, 2.0)(t, schedule)[inside].tolist() == torch.tensor([0.0, 0, 1, 1, 0])[inside].tolist()


def test_outside_of_the_interval_the_model_is_asked_once(denoiser, x_t):
    calls = Calls(denoiser)
    guided = ClassifierFree(3.0, Interval(0.9, 2.0))(calls, [])
    t = torch.full((3,), 0.2, dtype=torch.float64)  # sigma / alpha = 1/4
    assert torch.equal(guided(x_t, t, COND), denoiser(x_t, t, COND))
    assert calls.conds == [COND]


def test_each_row_has_the_weight_of_its_own_time(denoiser, x_t):
    """T is 0.9, 0.5, 0.2: 9, 1 and 1/4 in sigma / alpha."""
    part = ClassifierFree(3.0, Interval(0.5, 2.0))(denoiser, [])(x_t, T, COND)
    whole, none = ClassifierFree(3.0)(denoiser, [])(x_t, T, COND), denoiser(x_t, T, COND)
    torch.testing.assert_close(part, torch.stack([none[0], whole[1], none[2]]))


@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_rescaling_brings_back_the_standard_deviation(phi, denoiser, x_t):
    """arXiv:2305.08891, eq. 15-16: std is linear in phi, and at phi = 1 that of the conditional model."""
    std = [ClassifierFree(4.0, rescale=p)(denoiser, [])(x_t, T, COND).flatten(1).std(1) for p in (0.0, phi)]
    wanted = denoiser(x_t, T, COND).flatten(1).std(1)
    torch.testing.assert_close(std[1], phi * wanted + (1 - phi) * std[0], rtol=1e-9, atol=0)
    assert (std[0] - wanted).abs().max() > 1e-3


def test_a_negative_condition_takes_the_place_of_none(denoiser, x_t):
    guided = ClassifierFree(3.0, negative={"label": 2})(denoiser, [])(x_t, T, COND)
    other = denoiser(x_t, T, Condition.of(label=Label(torch.full((3,), 2))))
    torch.testing.assert_close(guided, other + 3 * (denoiser(x_t, T, COND) - other), rtol=1e-10, atol=1e-10)


def test_who_needs_dropped_conditions_says_so(denoiser, x_t):
    """``drops`` is what decides if a model without dropout can be guided: compared with what is really asked."""
    kinds = (Unguided(), ClassifierFree(1.0), ClassifierFree(3.0), ClassifierFree(3.0, negative={"label": 1}))
    for guidance in (*kinds, CFGPP(), CFGZeroStar()):
        calls = Calls(denoiser)
        guidance(calls, [*nodes(Linear(), [0.95, 0.6]), DATA])(x_t, T, COND)
        assert (Condition() in calls.conds) == guidance.drops


# --- CFG++ and CFG-zero*


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("schedule", [Linear(), VP()], ids=["linear", "vp"])
def test_cfg_pp_with_ddim_is_its_algorithm(schedule, dtype, small_unet, normal):
    """arXiv:2406.08070, algorithm 2: x̂0 from the guided eps, and the unconditional eps put back."""
    d = Denoiser(small_unet(num_classes=3).to(dtype), schedule, EDM()).requires_grad_(False)
    sampler, scale = DDIM(7), 0.6
    x = x_T = schedule.prior(normal(3, 1, 8, 8)).to(dtype)
    grid = sampler.nodes(schedule)
    for t, s in pairwise(grid):
        at = torch.full((3,), t.t, dtype=dtype)
        free, bound = d(x, at, Condition()), d(x, at, COND)
        x = s.alpha * (free + scale * (bound - free)) + s.sigma * (x - t.alpha * free) / t.sigma
    ours = sampler(CFGPP(scale)(d, grid), x_T, COND, None)
    close = 1e-9 if dtype == torch.float64 else 2e-4
    torch.testing.assert_close(ours, x, rtol=close, atol=close)


def test_cfg_pp_between_two_nodes_belongs_to_the_step_around(denoiser, x_t):
    grid = [*nodes(Linear(), [1.0, 0.7, 0.4]), DATA]
    at = torch.full((3,), 0.5, dtype=torch.float64)
    free, bound = denoiser(x_t, at, Condition()), denoiser(x_t, at, COND)
    kept = (0.4 / 0.6) / (0.5 / 0.5)
    expected = free + 0.6 / (1 - kept) * (bound - free)
    torch.testing.assert_close(CFGPP(0.6)(denoiser, grid)(x_t, at, COND), expected)


@pytest.fixture
def flow(denoiser):
    """The velocity (x - D) / t of the linear schedule."""
    return lambda x, t, cond: (x - denoiser(x, t, cond)) / expand_as(t, x)


def test_cfg_zero_star_is_its_algorithm(denoiser, flow, x_t):
    """arXiv:2503.18886, algorithm 1, on velocities."""
    grid = [*nodes(Linear(), [1.0, 0.95]), DATA]
    v_c, v_u = flow(x_t, T, COND), flow(x_t, T, Condition())
    s = (v_c * v_u).sum((1, 2, 3), keepdim=True) / (v_u * v_u).sum((1, 2, 3), keepdim=True)
    v = (1 - 2.5) * s * v_u + 2.5 * v_c
    guided = CFGZeroStar(2.5)(denoiser, grid)(x_t, T, COND)
    torch.testing.assert_close((x_t - guided) / expand_as(T, x_t), v, rtol=1e-9, atol=1e-9)


def test_cfg_zero_star_does_not_move_in_its_first_steps(denoiser, normal):
    x, grid = normal(3, 1, 8, 8), DDIM(5).nodes(Linear())
    for still in (0, 1, 2):
        moved = DDIM(5).solve(CFGZeroStar(2.0, still)(denoiser, grid), x, grid[: still + 1], COND, None)
        torch.testing.assert_close(moved, x)
    further = DDIM(5).solve(CFGZeroStar(2.0, 1)(denoiser, grid), x, grid[:3], COND, None)
    assert not torch.allclose(further, x)


def test_guidance_of_a_model_without_condition_changes_nothing(normal):
    """D_c = D_∅: every kind is the identity, CFG-zero* after its still steps."""
    exact, x, t = GaussianDenoiser(0.3, 0.7, Linear()), normal(4, 3), torch.full((4,), 0.5, dtype=torch.float64)
    grid = DDIM(5).nodes(Linear())
    for guidance in (ClassifierFree(5.0), CFGPP(0.8), CFGZeroStar(3.0), ClassifierFree(2.0, LinearWeight(), 0.5)):
        torch.testing.assert_close(guidance(exact, grid)(x, t, Condition()), exact(x, t, Condition()))
