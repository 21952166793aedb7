"""What a discriminator looks at is an activation of the network's own pass."""

import pytest
import torch

from model.test_unet_skeleton import NETWORKS
from oboro.condition import Label
from oboro.model import DiT

ALL = {**NETWORKS, "dit": lambda: DiT(2, patch=2, dim=16, depth=3, heads=2, num_classes=3, reference_size=8)}


@pytest.mark.parametrize("name", ALL)
def test_the_bottleneck_is_what_the_second_half_of_a_pass_begins_with(name, randomise, normal):
    with torch.random.fork_rng():
        network = randomise(ALL[name]()).double().eval()
    x, c_noise = normal(2, 2, 8, 12), torch.tensor([-1.0, 0.7], dtype=torch.float64)
    signals, kept = {"label": Label(torch.tensor([2, -1]))}, []
    last = network.blocks[1] if name == "dit" else network.middle[-1]
    last.register_forward_hook(lambda module, inputs, h: kept.append(h))
    network(x, c_noise, signals)
    given = network.bottleneck(x, c_noise, signals)
    expected = kept[0].transpose(1, 2).unflatten(2, (4, 6)) if name == "dit" else kept[0]
    assert given.shape[1] == network.bottleneck_channels
    torch.testing.assert_close(given, expected, rtol=0, atol=0)
