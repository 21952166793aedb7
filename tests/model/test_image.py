"""Laws of networks that read a picture beside the noisy sample."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import conv2d

from oboro.condition import Image, Label, Text
from oboro.model import DiT, EDM2UNet, GroupNormSettings, LDMAttention, LDMUNet, SongUNet, StepIndex, UNet
from oboro.schedule import DDPM

NETWORKS = {
    "unet": (UNet, {"channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention_levels": (1,), "head_channels": 8}),
    "unet_1d": (UNet, {"channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention_levels": (), "dims": 1}),
    "ldm_unet": (
        LDMUNet,
        {"noise": StepIndex(DDPM()), "widths": (8, 16), "blocks": 1}
        | {"attention": LDMAttention(levels=(1,), heads=(1, 2)), "norm": GroupNormSettings(groups=4)},
    ),
    "edm2_unet": (EDM2UNet, {"channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention_levels": ()}),
    "song_unet": (SongUNet, {"channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention_levels": ()}),
    "dit": (DiT, {"patch": 3, "dim": 16, "depth": 2, "heads": 2, "reference_size": 8}),
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def build(name, seed=0, **keywords):
    cls, settings = NETWORKS[name]
    with torch.random.fork_rng():  # drawn by torch's layers
        torch.manual_seed(seed)
        return cls(1, **settings, **keywords).double().eval()


@pytest.fixture
def question(normal):
    def question(name):
        size = (8,) if name == "unet_1d" else (8, 7)
        known = torch.tensor([True, False, True])
        image = Image(normal(3, 2, *size), torch.ones(3, dtype=torch.bool)).drop(~known)
        return normal(3, 1, *size), torch.tensor([-1.0, 0.0, 1.2], dtype=torch.float64), {"image": image}

    return question


def differences(a, b):
    return (a - b).flatten(1).abs().amax(1)


@each_network
def test_it_starts_as_the_network_without_a_picture(name, question, randomise):
    """To the last bit, with the same draws, so that trained weights may go on with a picture."""
    x, c_noise, signals = question(name)
    plain, reading = build(name), build(name, image_channels=2)
    extra = set(reading.state_dict()) - set(plain.state_dict())
    gain = reading.image_gain if name == "edm2_unet" else reading.image.weight
    assert extra == {"image.weight"} | ({"image_gain"} if name == "edm2_unet" else set()) and not gain.any()
    assert all(torch.equal(w, reading.state_dict()[k]) for k, w in plain.state_dict().items())
    randomise(plain)
    reading.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(reading(x, c_noise, signals), plain(x, c_noise, {}))
    assert reading(x, c_noise, {}).std() > 1e-3


@each_network
def test_a_picture_is_read_and_a_dropped_one_is_a_missing_one(name, question, randomise):
    x, c_noise, signals = question(name)
    network = randomise(build(name, image_channels=2))
    answer = network(x, c_noise, signals)
    mirrored = Image(signals["image"].x.flip(-1), signals["image"].known)
    moved = differences(network(x, c_noise, {"image": mirrored}), answer)
    assert moved[[0, 2]].min() > 1e-3 and moved[1] == 0
    missing = differences(network(x, c_noise, {}), answer)
    assert missing[1] < 1e-12 and missing[[0, 2]].min() > 1e-3
    grey = Image(torch.zeros_like(signals["image"].x), torch.ones(3, dtype=torch.bool))
    assert differences(network(x, c_noise, {"image": grey}), network(x, c_noise, {})).min() > 1e-3


@each_network
def test_several_pictures_are_told_apart_and_each_may_be_missing(name, question, randomise):
    """A missing one among several is a dropped one, and each is read."""
    x, c_noise, signals = question(name)
    network = randomise(build(name, image_channels={"edges": 2, "image": 2}))
    assert set(network.reads) == {"edges", "image"}
    a, b = signals["image"], signals["image"].map(lambda tensor: tensor.flip(0))
    both, none = {"edges": a, "image": b}, b.drop(torch.ones(3, dtype=torch.bool))
    answer = network(x, c_noise, both)
    assert differences(answer, network(x, c_noise, {"edges": b, "image": a}))[0] > 1e-3
    assert differences(answer, network(x, c_noise, {"edges": a}))[[0, 2]].min() > 1e-3
    torch.testing.assert_close(network(x, c_noise, {"edges": a}), network(x, c_noise, {"edges": a, "image": none}))


def test_the_hole_of_a_picture_is_seen(question, randomise):
    """A hole is zeros that are not known; zeros that are known are grey. Dropped, it is no picture."""
    x, c_noise, signals = question("unet")
    network = randomise(build("unet", image_channels=2))
    known = torch.ones(3, 1, 8, 7, dtype=torch.bool)
    whole = Image(signals["image"].x, known)
    known = known.clone()
    known[..., :3] = False
    hole, grey = Image(whole.x * known, known), Image(whole.x * known, torch.ones_like(known))
    answers = [network(x, c_noise, {"image": image}) for image in (whole, hole, grey)]
    assert min(differences(a, b).min() for a, b in pairwise(answers)) > 1e-3
    dropped = hole.drop(torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(network(x, c_noise, {"image": dropped}), network(x, c_noise, {}))


def test_the_unet_reads_it_as_further_channels_of_its_first_convolution(question, randomise, normal):
    """arXiv:2211.09800, sec. 3.2: one convolution of the noisy image, the picture, and where it is known."""
    x, c_noise, signals = question("unet")
    network, seen = randomise(build("unet", image_channels=2)), []
    network.down[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(x, c_noise, signals)
    known = signals["image"].known.double()[:, None, None, None].expand(-1, 1, 8, 7)
    weight = torch.cat([network.first.weight, network.image.weight], 1)
    expected = conv2d(torch.cat([x, signals["image"].x, known], 1), weight, network.first.bias, padding=1)
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.slow
def test_signals_do_not_break_the_graph_of_a_compiled_network(question, randomise, normal):
    """With every kind at once, and with none."""
    x, c_noise, signals = question("unet")
    network = randomise(build("unet", image_channels=2, num_classes=3, text_dim=6, pooled_dim=5))
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    text = Text(normal(3, 2, 6), mask, normal(3, 5))
    every = {**signals, "label": Label(torch.tensor([0, 2, -1])), "text": text}
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for given in (every, {}, {**every, "label": Label(torch.tensor([1, 1, 0]))}):
        torch.testing.assert_close(compiled(x, c_noise, given), network(x, c_noise, given))
