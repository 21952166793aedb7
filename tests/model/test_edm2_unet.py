from copy import deepcopy
from math import sqrt

import pytest
import torch
import torch.nn.functional as F

from oboro.base.errors import UserError
from oboro.condition import Label
from oboro.ema import EMA, ConstantDecay
from oboro.model.edm2_unet import Block, EDM2UNet
from oboro.model.magnitude import mp_silu, mp_sum, pixel_norm


@pytest.fixture
def small_edm2(randomise):
    """``small_edm2(num_classes=3)``: two levels of 8 and 16 channels with random weights and gains, in eval mode."""

    def make(in_channels: int = 1, **keywords) -> EDM2UNet:
        settings = {"channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention_levels": (1,), "head_channels": 8}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = EDM2UNet(in_channels, **{**settings, **keywords})
        return randomise(network).double().eval()

    return make


@pytest.mark.parametrize(
    ("name", "expected"), [("edm2_unet", 124_713_125), ("edm2_unet_s", 280_212_709), ("edm2_unet_m", 497_807_653)]
)
def test_parameters_are_those_of_the_paper(count_parameters, name, expected):
    """XS 125 M, S 280 M, M 498 M (arXiv:2312.02696) for latents of 4 channels and 1000 classes.

    Their code counts 128 more, which predict the uncertainty of the loss.
    """
    assert count_parameters(name, 4, 1000) == expected


def test_the_tiny_one_costs_little(flop):
    assert flop("edm2_unet_tiny", 28) < 0.3e9


def test_a_level_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match=r"attention_levels=\[4\].*use levels 0 to 3"):
        EDM2UNet(1, channels=8, attention_levels=[4])


# --- blocks


def unit(layer):
    return F.normalize(layer.weight.flatten(1)).view_as(layer.weight)


@pytest.mark.parametrize("encoder", [True, False], ids=["encoder", "decoder"])
def test_block_written_out(encoder, randomise, normal):
    block = randomise(Block(6, 8, 5, encoder=encoder, dropout=0.0)).double()
    x, embedding = normal(2, 6, 4, 4), normal(2, 5)
    residual, skip = block.residual, F.conv2d(x, unit(block.skip))
    main = pixel_norm(skip) if encoder else skip
    h = F.conv2d(mp_silu(main if encoder else x), unit(residual.conv1), padding=1)
    scale = 1 + residual.gain * embedding @ unit(residual.embedding).T
    h = F.conv2d(mp_silu(h * scale[:, :, None, None]), unit(residual.conv2), padding=1)
    torch.testing.assert_close(block(x, embedding), (0.7 * main + 0.3 * h) / sqrt(0.58))


def test_blocks_clip(randomise, normal):
    block = randomise(Block(6, 6, 5, encoder=False, dropout=0.0)).double()
    x = 300 * normal(2, 6, 4, 4)
    out, free = block(x, torch.zeros(2, 5).double()), mp_sum(x, block.residual(x, torch.zeros(2, 5).double()), 0.3)
    assert free.abs().max() > 256
    assert torch.equal(out, free.clamp(-256, 256))


def test_gains_start_at_zero_and_the_rest_as_standard_normal():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EDM2UNet(1, channels=16, num_classes=4)
    weights = torch.cat([p.detach().flatten() for p in network.parameters() if p.ndim])
    assert not any(p.any() for p in network.parameters() if not p.ndim)
    assert weights.std().item() == pytest.approx(1, rel=0.01)


# --- magnitudes


def test_activations_have_magnitude_one_at_every_depth(normal):
    """A deep network with the weights of its initialisation; 30 blocks, without correlation they would be at 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EDM2UNet(3, channels=32, channel_mult=(1, 2), blocks=6, attention_levels=(1,)).double().eval()
    magnitudes = []
    for stage in [*network.down, *network.middle, *(s for stages in network.up for s in stages)]:
        stage.register_forward_hook(lambda module, args, out: magnitudes.append(out.square().mean().sqrt().item()))
    network(normal(2, 3, 16, 16), normal(2), {})
    assert len(magnitudes) == 30
    assert all(0.75 < m < 1.35 for m in magnitudes)


@pytest.mark.parametrize("label", [0, 2, -1])
def test_the_embedding_has_magnitude_one_with_and_without_a_label(label, normal):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EDM2UNet(1, channels=512, channel_mult=(1,), blocks=0, attention_levels=(), num_classes=3).double()
    (embedding,) = network.embed(normal(8), {"label": Label(torch.full((8,), label))})
    assert embedding.square().mean().sqrt().item() == pytest.approx(1, abs=0.1)


def test_the_length_of_weights_does_not_matter(small_edm2, normal):
    network, x, c_noise = small_edm2(num_classes=3), normal(2, 1, 8, 8), normal(2)
    cond = {"label": Label(torch.tensor([1, -1]))}
    before = network(x, c_noise, cond).detach()
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim > 1:
                p.mul_(normal(1).exp())
    torch.testing.assert_close(network(x, c_noise, cond), before)


def test_the_image_has_a_channel_of_ones(small_edm2, normal):
    """In place of biases: an image of zeros gives something."""
    network = small_edm2()
    assert network(torch.zeros(1, 1, 8, 8).double(), normal(1), {}).std() > 0
    seen = []
    network.first.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = normal(2, 1, 8, 8)
    network(x, normal(2), {})
    assert torch.equal(seen[0], torch.cat([x, torch.ones_like(x)], 1))


# --- training


def test_training_keeps_the_lengths_of_weights(small_edm2, normal):
    """Rows have length sqrt(fan in) in every step, although each update, orthogonal to them, lengthens them."""
    network = small_edm2(num_classes=3).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        out = network(normal(4, 1, 8, 8), normal(4), {"label": Label(torch.tensor([0, 1, 2, -1]))})
        for p in network.parameters():
            if p.ndim > 1:
                length = p.flatten(1).norm(dim=1)
                torch.testing.assert_close(length, torch.full_like(length, sqrt(p[0].numel())))
        (out * normal(*out.shape)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert network.first.weight.flatten(1).norm(dim=1).min() > 1.00001 * sqrt(18)


def test_training_mode_changes_no_answer_and_evaluation_no_weight(small_edm2, normal):
    network, x, c_noise = small_edm2(), normal(2, 1, 8, 8), normal(2)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1.5)
    before, weights = network(x, c_noise, {}), [p.clone() for p in network.parameters()]
    assert all(torch.equal(p, w) for p, w in zip(network.parameters(), weights, strict=True))
    torch.testing.assert_close(network.train()(x, c_noise, {}), before)
    assert not torch.equal(network.first.weight, weights[0])


def test_two_calls_in_one_graph_have_the_gradient_of_their_sum(small_edm2, normal):
    """The second call sets weights anew that the first one's graph holds."""
    network, x, y, c_noise = small_edm2().train(), normal(2, 1, 8, 8), normal(2, 1, 8, 8), normal(2)
    parameters = list(network.parameters())
    both = torch.autograd.grad(
        network(x, c_noise, {}).square().sum() + network(y, c_noise, {}).square().sum(), parameters
    )
    one = torch.autograd.grad(network(x, c_noise, {}).square().sum(), parameters)
    other = torch.autograd.grad(network(y, c_noise, {}).square().sum(), parameters)
    for g, a, b in zip(both, one, other, strict=True):
        torch.testing.assert_close(g, a + b)


def test_averaged_weights_are_used_by_their_direction(small_edm2, normal):
    """Their lengths shrink where updates disagree; the answer is that of the normalised average."""
    network, x, c_noise = small_edm2(), normal(2, 1, 8, 8), normal(2)
    ema = EMA({"constant": ConstantDecay(0.5)})
    ema.start(network)
    for _ in range(3):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(normal(p.numel()).view(p.shape))
        network.train()(x, c_noise, {})
        ema.update(network)
    with ema.applied(network):
        average = deepcopy(network).eval()
        answer = network.eval()(x, c_noise, {})
    assert average.first.weight.flatten(1).norm(dim=1).max() < 0.99 * sqrt(18)
    torch.testing.assert_close(average.train()(x, c_noise, {}), answer)


def test_a_compiled_network_trains_alike(small_edm2, normal):
    network, x, c_noise = (
        small_edm2(channel_mult=(2,), blocks=0, attention_levels=()).train(),
        normal(2, 1, 4, 4),
        normal(2),
    )
    with torch.no_grad():
        network.first.weight.mul_(2)
    parameters = list(network.parameters())
    compiled = deepcopy(network)
    expected = torch.autograd.grad(network(x, c_noise, {}).square().sum(), parameters)
    compiled.compile(backend="eager")
    loss = compiled(x, c_noise, {}).square().sum()
    found = torch.autograd.grad(loss, list(compiled.parameters()))
    torch.testing.assert_close(compiled.first.weight, network.first.weight)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
