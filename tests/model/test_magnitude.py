from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad

from oboro.base.errors import UserError
from oboro.model.magnitude import (
    CosineAttention,
    MPConv,
    MPFourier,
    MPLabel,
    MPLinear,
    mp_cat,
    mp_silu,
    mp_sum,
    normalise_weights,
    pixel_norm,
    unit_rows,
)

LAYERS = [MPLinear(6, 5), MPConv(3, 5, 3), MPLabel(6, 5)]
each_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)


def magnitude(x, dim=None):
    return x.square().mean(dim).sqrt()


def orthonormal(normal, *shape):
    """Two tensors of magnitude 1 whose product has mean 0: what independence gives on average, exactly."""
    a, b = normal(*shape), normal(*shape)
    a = a / magnitude(a)
    b = b - (a * b).mean() * a
    return a, b / magnitude(b)


def question(layer, normal):
    """An input of the layer."""
    return {MPLinear: lambda: normal(2, 6), MPConv: lambda: normal(2, 3, 4, 4), MPLabel: lambda: torch.tensor([1, 4])}[
        type(layer)
    ]()


# --- each operation keeps the magnitude


def test_mp_silu_has_variance_one_on_a_standard_normal():
    def integrand(z):
        density = torch.tensor(-z * z / 2, dtype=torch.float64).exp() / sqrt(2 * torch.pi)
        return (mp_silu(torch.tensor(z, dtype=torch.float64)) ** 2 * density).item()

    assert quad(integrand, -12, 12, epsabs=1e-12)[0] == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_mp_sum_of_independent_inputs_has_magnitude_one(t, normal):
    a, b = orthonormal(normal, 2, 8)
    out = mp_sum(a, b, t)
    torch.testing.assert_close(magnitude(out), torch.tensor(1.0, dtype=torch.float64))
    assert (out * b).mean() == pytest.approx(t / sqrt((1 - t) ** 2 + t**2))  # the share of b


@pytest.mark.parametrize("t", [0.3, 0.5])
def test_mp_cat_keeps_the_magnitude_and_weighs_its_parts_whatever_their_number(t, normal):
    a, b = (x / magnitude(x) for x in (normal(1, 2, 5), normal(1, 6, 5)))
    out = mp_cat(a, b, t)
    torch.testing.assert_close(magnitude(out), torch.tensor(1.0, dtype=torch.float64))
    first, second = out[:, :2].square().sum(), out[:, 2:].square().sum()
    assert second / first == pytest.approx((t / (1 - t)) ** 2)
    torch.testing.assert_close(out[:, :2] / magnitude(out[:, :2]), a)
    torch.testing.assert_close(out[:, 2:] / magnitude(out[:, 2:]), b)


def test_pixel_norm_gives_every_pixel_magnitude_one(normal):
    x = normal(2, 8, 3, 3) * torch.tensor([0.1, 30.0], dtype=torch.float64)[:, None, None, None]
    torch.testing.assert_close(magnitude(pixel_norm(x), 1), torch.ones(2, 3, 3, dtype=torch.float64), atol=4e-3, rtol=0)
    torch.testing.assert_close(pixel_norm(x) * (1e-4 + magnitude(x, 1)[:, None]), x)
    assert not pixel_norm(torch.zeros(1, 2, 1, 1)).any()


def test_linear_and_convolution_have_variance_one_on_independent_inputs(normal):
    """The variance of an output is the sum over inputs of its squared derivatives: of the answers to unit vectors."""
    linear, conv = MPLinear(6, 5).double(), MPConv(3, 5, 3).double()
    torch.testing.assert_close(linear(torch.eye(6).double()).square().sum(0), torch.ones(5, dtype=torch.float64))
    impulses = torch.eye(75, dtype=torch.float64).view(75, 3, 5, 5)
    torch.testing.assert_close(conv(impulses).square().sum(0)[:, 1:4, 1:4], torch.ones(5, 3, 3, dtype=torch.float64))


def test_layers_apply_their_gain(normal):
    for layer, x in ((MPLinear(6, 5).double(), normal(2, 6)), (MPConv(3, 5, 3).double(), normal(2, 3, 4, 4))):
        torch.testing.assert_close(layer(x, torch.tensor(0.7).double()), 0.7 * layer(x))


def test_labels_have_magnitude_one_over_the_classes():
    layer = MPLabel(6, 5).double()
    out = layer(torch.arange(6))
    torch.testing.assert_close(magnitude(out, 0), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(F.normalize(out, dim=0), F.normalize(layer.weight.T, dim=0))  # class by class
    hot = MPLinear(6, 5).double()
    hot.weight = layer.weight
    torch.testing.assert_close(hot(torch.eye(6).double() * sqrt(6)), out)


def test_fourier_features_have_magnitude_one_and_the_kernel_of_a_gaussian():
    """E[y(a) y(b)] = exp(-2 π² (a - b)²), the characteristic function of 2 π f; within 5 standard errors."""
    n = 200_000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = MPFourier(n)
    distance = torch.tensor([0.0, 0.05, 0.1, 0.3])
    y = features(1.7 + distance)
    products = y[0] * y
    error = products.std(1) / sqrt(n)
    assert ((products.mean(1) - torch.exp(-2 * torch.pi**2 * distance**2)).abs() < 5 * error).all()
    assert (y.mean(1).abs() < 5 / sqrt(n)).all()  # phases are uniform


def test_fourier_features_travel_with_the_weights():
    features = MPFourier(8)
    other = MPFourier(8)
    other.load_state_dict(features.state_dict())
    assert torch.equal(other(torch.tensor([0.3])), features(torch.tensor([0.3])))


def test_attention_written_out(randomise, normal):
    """Queries, keys and values of magnitude 1, so that logits are sqrt(d) times a cosine."""
    layer, x = randomise(CosineAttention(8, 4, 0.3)).double(), normal(2, 8, 3, 2)
    qkv = F.conv2d(x, F.normalize(layer.qkv.weight.flatten(1))[:, :, None, None]).flatten(2)
    out = torch.zeros(2, 8, 6, dtype=torch.float64)
    for first in (0, 4):
        q, k, v = (qkv[:, i + first : i + first + 4] for i in (0, 8, 16))
        cosine = torch.einsum("bci,bcj->bij", F.normalize(q, dim=1), F.normalize(k, dim=1))
        weights = (2 * cosine).exp()
        v = 2 * F.normalize(v, dim=1)
        out[:, first : first + 4] = torch.einsum("bij,bcj->bci", weights / weights.sum(2, keepdim=True), v)
    out = F.conv2d(out.view_as(x), F.normalize(layer.proj.weight.flatten(1))[:, :, None, None])
    torch.testing.assert_close(layer(x), (0.7 * x + 0.3 * out) / sqrt(0.58), atol=1e-3, rtol=1e-3)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"set model\.head_channels to a divisor\.$"):
        CosineAttention(20, 6, 0.3)


# --- the length of a weight is nothing


@each_layer
def test_the_length_of_a_weight_does_not_matter(layer, normal):
    layer = layer.double()
    x = question(layer, normal)
    before = layer(x).detach()
    with torch.no_grad():
        layer.weight.mul_(normal(5).exp().view(5, *[1] * (layer.weight.ndim - 1)))
    torch.testing.assert_close(layer(x), before)


@each_layer
def test_the_gradient_of_a_weight_is_orthogonal_to_it(layer, normal):
    layer = layer.double()
    out = layer(question(layer, normal))
    (gradient,) = torch.autograd.grad((out * normal(*out.shape)).sum(), layer.weight)
    inner = (gradient * layer.weight).flatten(1).sum(1)
    assert gradient.flatten(1).norm(dim=1).min() > 1e-3
    torch.testing.assert_close(inner, torch.zeros_like(inner), atol=1e-12, rtol=0)


@each_layer
def test_forced_normalisation_sets_the_magnitude_of_weights_and_changes_no_answer(layer, normal):
    layer = layer.double()
    x = question(layer, normal)
    with torch.no_grad():
        layer.weight.mul_(3.7)
    before, direction = layer(x).detach(), unit_rows(layer.weight).detach()
    normalise_weights(layer)
    length = layer.weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(length, torch.full_like(length, sqrt(layer.weight[0].numel())))
    torch.testing.assert_close(unit_rows(layer.weight), direction)
    torch.testing.assert_close(layer(x), before)


def test_forced_normalisation_leaves_gains_alone():
    gain = torch.nn.Module()
    gain.gain = torch.nn.Parameter(torch.tensor(0.3))
    normalise_weights(gain)
    assert gain.gain.item() == pytest.approx(0.3)


def test_a_weight_of_zeros_gives_zeros():
    assert not unit_rows(torch.zeros(2, 3)).any()
