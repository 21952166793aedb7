"""What the walk of every U-Net promises to those who change what passes on it: hints, adapters, a ControlNet."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from oboro.condition import Label
from oboro.model import EDM2UNet, GroupNormSettings, LDMAttention, LDMUNet, SongUNet, StepIndex, UNet
from oboro.schedule import DDPM

LEVELS = {"channels": 8, "channel_mult": (1, 2, 2), "blocks": 2, "attention_levels": (1,)}
LDM = {"widths": (8, 16, 16), "blocks": 2, "attention": LDMAttention((1,), (1, 2, 2)), "norm": GroupNormSettings(4)}
NETWORKS = {
    "unet": lambda: UNet(2, **LEVELS, head_channels=8, num_classes=3, text_dim=6),
    "ncsnpp": lambda: SongUNet(2, **LEVELS, noise_channels=8, dropout=0.0, num_classes=3, pyramid=True),
    "edm2_unet": lambda: EDM2UNet(2, **LEVELS, head_channels=8, num_classes=3),
    "ldm_unet": lambda: LDMUNet(2, StepIndex(DDPM()), num_classes=3, **LDM),
}
HALVINGS = (3, 6)  # the skips after stages that halve


@pytest.fixture(params=NETWORKS)
def network(request, randomise):
    with torch.random.fork_rng():  # drawn by torch's layers
        torch.manual_seed(0)
        return randomise(NETWORKS[request.param]()).double().eval()


@pytest.fixture
def question(normal):
    """x of odd sizes, c_noise and labels for a batch of two."""
    return normal(2, 2, 7, 9), torch.tensor([-1.0, 0.7], dtype=torch.float64), {"label": Label(torch.tensor([2, -1]))}


class Control(nn.Module):
    """A ControlNet (arXiv:2302.05543, fig. 3): a copy of the way down sees a hint, and speaks through zero layers."""

    def __init__(self, base):
        super().__init__()
        self.copy = deepcopy(base)
        self.hint = nn.Conv2d(1, base.skip_channels[0], 3, padding=1)
        self.out = nn.ModuleList(nn.Conv2d(c, c, 1) for c in (*base.skip_channels, base.skip_channels[-1]))
        for p in self.out.parameters():
            nn.init.zeros_(p)

    def forward(self, base, x, c_noise, cond, hint):
        arguments = base.embed(c_noise, cond)
        h, skips = base.encode(x, arguments)
        middle, seen = self.copy.encode(x, self.copy.embed(c_noise, cond), added={0: self.hint(hint)})
        *residuals, last = (layer(a) for layer, a in zip(self.out, (*seen, middle), strict=True))
        return base.decode(h + last, [s + r for s, r in zip(skips, residuals, strict=True)], arguments)


def test_a_control_net_needs_nothing_but_the_two_halves(network, question, normal):
    """It starts as the base, bit by bit; then its hint changes the answer through every skip and the middle."""
    control, hint = Control(network).double(), normal(2, 1, 7, 9)
    assert torch.equal(control(network, *question, hint), network(*question))
    for layer in control.out:
        with torch.no_grad():
            layer.weight.normal_(generator=torch.Generator().manual_seed(0))
        assert not torch.allclose(control(network, *question, hint), control(network, *question, -hint))
        nn.init.zeros_(layer.weight)


@pytest.mark.parametrize("i", [0, 1, 4])
def test_what_is_added_is_seen_by_the_skip_and_all_that_follows(i, network, question, normal):
    """As if the stage itself had given the sum."""
    x, c_noise, cond = question
    arguments = network.embed(c_noise, cond)
    _, plain = network.encode(x, arguments)
    extra = normal(*plain[i].shape)
    h, skips = network.encode(x, arguments, {i: extra})
    stages = [s for entry in network.down for s in (entry if isinstance(entry, nn.ModuleList) else [entry])]
    (network.first if i == 0 else stages[i - 1]).register_forward_hook(lambda module, args, out: out + extra)
    expected, others = network.encode(x, arguments)
    assert torch.equal(h, expected)
    assert all(torch.equal(a, b) for a, b in zip(skips, others, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(skips[:i], plain[:i], strict=True))
    assert not torch.isclose(skips[i + 1], plain[i + 1]).all()


def test_skips_have_the_declared_channels_and_halve_where_levels_do(network, question):
    x, c_noise, cond = question
    h, skips = network.encode(x, network.embed(c_noise, cond))
    assert tuple(s.shape[1] for s in skips) == tuple(network.skip_channels)
    sizes, expected = [tuple(s.shape[2:]) for s in skips], [(7, 9)]
    for i in range(1, len(skips)):
        rows, columns = expected[-1]
        expected.append(((rows + 1) // 2, (columns + 1) // 2) if i in HALVINGS else (rows, columns))
    assert sizes == expected and h.shape == skips[-1].shape


def test_the_pyramid_meets_every_halved_level(randomise, normal):
    """NCSN++: the skip of a halved level is (stage(h) + conv(image)) / sqrt(2), and the image goes on as that sum."""
    network = randomise(NETWORKS["ncsnpp"]()).double().eval()
    arguments = network.embed(torch.zeros(1, dtype=torch.float64), {})
    x = normal(1, 2, 8, 8)
    _, skips = network.encode(x, arguments)
    image = x
    for level, i in enumerate(HALVINGS):
        h = network.down[level + 1][0](skips[i - 1], *arguments)
        image = (h + network.pyramid[level](image)) / 2**0.5
        torch.testing.assert_close(skips[i], image)
