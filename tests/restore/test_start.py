"""Laws of starting from a network that reads less: ``init=`` gives it new input channels."""

import pytest
import torch
from torch import nn

from model.test_image import NETWORKS
from model.test_image import build as network
from oboro.adapter import LoRA, plain_state
from oboro.base.errors import UserError
from oboro.condition import Condition, Image
from oboro.denoiser import Denoiser
from oboro.parameterization import Velocity
from oboro.restore.start import added, check_trained, inherit, load
from oboro.schedule import Linear

each_network = pytest.mark.parametrize("name", [name for name in NETWORKS if name != "unet_1d"])


def build(name, seed=0, **keywords):
    return Denoiser(network(name, seed, **keywords), Linear(), Velocity())


def start(here, there):
    new = added(here, there)
    check_trained(here, new)
    load(plain_state(here), there.state_dict(), ["model.channels is 8 there and 16 here"], new)
    return new


@pytest.fixture
def question(normal):
    picture = Image(normal(3, 2, 8, 8), torch.tensor([True, False, True]))
    return normal(3, 1, 8, 8), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), Condition.of(image=picture)


@each_network
def test_it_is_the_same_function_of_any_picture(name, question, randomise):
    """To the last bit: InstructPix2Pix, arXiv:2211.09800, sec. 3.2."""
    x_t, t, cond = question
    there, here = randomise(build(name)), build(name, seed=1, image_channels=2)
    with torch.no_grad():
        assert start(here, there) == {"network.image.weight"} | ({"network.image_gain"} if "edm2" in name else set())
        answer = there(x_t, t, Condition())
        assert torch.equal(here(x_t, t, cond), answer) and torch.equal(here(x_t, t, Condition()), answer)
        assert answer.std() > 0.1


@each_network
def test_a_flow_map_starts_as_the_denoiser_that_it_comes_from(name, normal, randomise):
    """To the last bit, whatever the end, and a flow map as the flow map."""
    x_t, t = normal(3, 1, 8, 8), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    there, here, third = randomise(build(name)), build(name, seed=1, reads_end=True), build(name, reads_end=True)
    with torch.no_grad():
        assert start(here, there) and all(key.startswith("network.end.") for key in added(here, there))
        answer = there(x_t, t, Condition())
        for ended in (here, here.towards(1.0, 0.0), here.towards(*here.schedule(t / 2))):
            assert torch.equal(ended(x_t, t, Condition()), answer)
        randomise(here)
        assert start(third, here) == set()
        jump = here.towards(1.0, 0.0)(x_t, t, Condition())
        assert torch.equal(third.towards(1.0, 0.0)(x_t, t, Condition()), jump) and not torch.equal(jump, answer)


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_only_new_inputs_that_are_zero_are_left_as_they_are(name, randomise):
    there = randomise(build(name))
    with pytest.raises(UserError, match=r"network\.image\.weight is absent there"):
        start(randomise(build(name, image_channels=2)), there)  # it is not zero
    with pytest.raises(UserError, match=r"another model: .* model\.channels is 8 there and 16 here"):
        start(build(name, image_channels=2, num_classes=3), there)  # a label is no picture
    with pytest.raises(UserError, match=r"network\.image\.weight is .* and absent here"):
        start(there, build(name, image_channels=2))  # what is trained is not thrown away
    with pytest.raises(UserError, match=r"network\.image\.weight is "):
        start(build(name, image_channels=3), build(name, image_channels=2))


def test_an_adapter_that_would_leave_the_new_input_at_zero_is_refused(question, randomise):
    there, here = randomise(build("unet")), build("unet", image_channels=2)
    LoRA(2)(here.network)
    with pytest.raises(UserError, match=r"network\.image, .* adapter=full, or choose adapter\.targets"):
        start(here, there)
    wide = build("unet", image_channels=2)
    with torch.random.fork_rng(devices=[]):
        LoRA(2, targets=["linear", "convolution"])(wide.network)
    x_t, t, cond = question
    with torch.no_grad():
        start(wide, there)
        assert torch.equal(wide(x_t, t, cond), there(x_t, t, Condition()))
    wide(x_t, t, cond).sum().backward()
    assert wide.network.image.B.weight.grad.abs().max() > 0


def test_a_part_is_found_within_the_other_part_or_nothing_is_claimed():
    a, b = nn.Linear(2, 3), nn.Linear(2, 3)
    joint = nn.ModuleDict({"text": nn.ModuleDict({"encoder": a})})
    assert inherit(joint, nn.ModuleDict({"encoder": b})) and torch.equal(a.weight, b.weight)
    assert not inherit(joint, nn.ModuleDict({"encoder": nn.Linear(2, 4)}))
    assert not inherit(nn.ModuleDict({"text": a, "other": nn.Linear(5, 5)}), nn.ModuleDict({"encoder": b}))
