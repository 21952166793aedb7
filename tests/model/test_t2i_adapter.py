"""T2I-Adapter: at first its base bit for bit, and then features that the levels of the way down have added."""

from copy import deepcopy

import pytest
import torch

from model.test_controlnet import LABEL, control, trained
from model.test_networks import NETWORKS, make
from oboro.base.errors import UserError
from oboro.model import ControlNet, DiT, T2IAdapter
from oboro.model.unet_skeleton import UNetSkeleton

UNETS = [name for name, (cls, _) in NETWORKS.items() if issubclass(cls, UNetSkeleton)]


@pytest.fixture(params=UNETS)
def base(request, randomise):
    cls, settings = NETWORKS[request.param]
    return randomise(make(cls, num_classes=3, **settings))


@pytest.fixture
def question(normal):
    def question(factor=1, size=(8, 6)):
        x, c_noise = normal(3, 1, *size), torch.tensor([-1.0, 0.0, 1.2], dtype=torch.float64)
        return x, c_noise, {**LABEL, "control": control(normal(3, 3, *(n * factor for n in size)))}

    return question


def wrapped(base, factor=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return T2IAdapter(base, 3, factor).double()


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_at_first_it_is_its_base_bit_for_bit_and_learns_all_of_itself(base, question, normal, randomise, size):
    """Sizes that are odd are halved upwards by both."""
    x, c_noise, signals = question(2, size)
    network = wrapped(base, 2)
    with torch.no_grad():
        assert torch.equal(network(x, c_noise, signals), base(x, c_noise, signals))
    later = trained(network, randomise)
    (later(x, c_noise, signals) * normal(*x.shape)).sum().backward()
    assert all(p.grad is None for p in later.base.parameters())
    assert all(p.grad is not None and p.grad.any() for p in later.branches.parameters())


def test_in_bfloat16_it_is_its_base_bit_for_bit_where_it_adds_nothing(base, question, randomise):
    x, c_noise, signals = question()
    network, base = trained(wrapped(base), randomise).float().requires_grad_(False), base.float()
    x, c_noise, nothing = x.float(), c_noise.float(), control(signals["control"].x.float(), 0.0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(x, c_noise, {**LABEL, "control": nothing}), base(x, c_noise, LABEL))


def test_its_features_are_added_to_the_last_activation_of_each_level(base, question, randomise):
    """encode with the features at the ends of levels (arXiv:2302.08453, eq. 2), times the strength; what the picture
    becomes depends neither on x nor on the noise level."""
    x, c_noise, signals = question(2)
    network = trained(wrapped(base, 2), randomise).requires_grad_(False)
    picture = signals["control"].x
    features = network.branches[0].added(x, c_noise, {}, picture).features
    assert list(features) == base.level_ends
    other = network.branches[0].added(2 * x, c_noise + 1, {}, picture).features
    assert all(torch.equal(features[i], other[i]) for i in features)
    arguments = base.arguments(c_noise, LABEL)
    beside = dict(base.beside(x, LABEL))
    for strength in (1.0, 0.4):
        h, skips = base.encode(x, arguments, {**beside, **{i: strength * f for i, f in features.items()}})
        asked = {**LABEL, "control": control(picture, strength)}
        torch.testing.assert_close(network(x, c_noise, asked), base.decode(h, skips, arguments))
    none = {**LABEL, "control": control(picture, 0.0)}
    assert torch.equal(network(x, c_noise, none), base(x, c_noise, LABEL))


def test_it_acts_together_with_a_controlnet(base, question, randomise):
    """decoder(mid'' + z_m, skip'' + z_i): mid'' and skip'' with the features, z of the ControlNet without."""
    x, c_noise, signals = question()
    with torch.random.fork_rng():
        control_net = trained(ControlNet(deepcopy(base), 3).double(), randomise)
    adapter = trained(wrapped(deepcopy(base)), randomise)
    picture = signals["control"].x
    residuals = control_net.branches[0].added(x, c_noise, LABEL, picture).residuals
    features = adapter.branches[0].added(x, c_noise, LABEL, picture).features
    expected = base(x, c_noise, LABEL, residuals, features)
    control_net.add(adapter.branches[0], "other")
    torch.testing.assert_close(control_net(x, c_noise, {**signals, "other": control(picture)}), expected)


def test_what_does_not_fit_is_refused(base, question, randomise):
    x, c_noise, signals = question()
    network = wrapped(base, 2)
    with pytest.raises(UserError, match="is not 2 times"):
        network(x, c_noise, signals)
    with pytest.raises(UserError, match="of 3 channels"):
        network(x, c_noise, {**LABEL, "control": control(signals["control"].x[:, :1])})
    cls, settings = next(pair for pair in NETWORKS.values() if issubclass(pair[0], DiT))
    with pytest.raises(UserError, match="model=controlnet"):
        T2IAdapter(make(cls, num_classes=3, **settings), 3)
