import pytest
import torch
from torch import nn

from oboro.denoiser import Denoiser
from oboro.guidance import ClassifierFree, Unguided
from oboro.parameterization import EDM
from oboro.schedule import VP, Linear, expand_as

pytestmark = pytest.mark.usefixtures("global_generator_unread")

T = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
COND = {"label": torch.tensor([0, 1, 2])}


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


def test_unguided_is_the_identity(denoiser):
    assert Unguided()(denoiser) is denoiser


def test_scale_1_is_the_conditional_model(denoiser, x_t):
    calls = Calls(denoiser)
    assert torch.equal(ClassifierFree(1.0)(calls)(x_t, T, COND), denoiser(x_t, T, COND))
    assert calls.conds == [COND]


def test_scale_0_is_the_unconditional_model(denoiser, x_t):
    unconditional = denoiser(x_t, T, {})
    torch.testing.assert_close(ClassifierFree(0.0)(denoiser)(x_t, T, COND), unconditional, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(unconditional, denoiser(x_t, T, COND))


def test_the_answer_is_linear_in_the_scale(denoiser, x_t):
    zero, three = (ClassifierFree(s)(denoiser)(x_t, T, COND) for s in (0.0, 3.0))
    conditional = denoiser(x_t, T, COND)
    torch.testing.assert_close(three, zero + 3 * (conditional - zero), rtol=1e-10, atol=1e-10)
    for scale in (-1.0, 0.5, 2.0, 7.5):
        between = zero + scale / 3 * (three - zero)
        torch.testing.assert_close(ClassifierFree(scale)(denoiser)(x_t, T, COND), between, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_it_evaluates_twice_with_and_without_the_condition(denoiser, x_t, scale):
    calls = Calls(denoiser)
    guided = ClassifierFree(scale)(calls)
    assert guided.schedule is denoiser.schedule
    guided(x_t, T, COND)
    assert sorted(calls.conds, key=len) == [{}, COND]


def test_steering_the_clean_image_is_steering_the_output_of_the_network(parameterization, normal, x_t):
    """Guidance commutes with the parameterization: it is the same map in eps, v or x̂0."""

    class Network(nn.Module):
        def forward(self, x, c_noise, cond):
            shift = expand_as(cond["label"] + 1.0, x) if cond else 0
            return torch.sin(x + shift)

    class Steered(nn.Module):
        def forward(self, x, c_noise, cond):
            unconditional = Network()(x, c_noise, {})
            return unconditional + 2.5 * (Network()(x, c_noise, cond) - unconditional)

    guided = ClassifierFree(2.5)(Denoiser(Network(), VP(), parameterization))(x_t, T, COND)
    steered = Denoiser(Steered(), VP(), parameterization)(x_t, T, COND)
    torch.testing.assert_close(guided, steered, rtol=1e-9, atol=1e-9)
