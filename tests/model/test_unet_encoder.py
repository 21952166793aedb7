"""The laws of a network that tells classes."""

import pytest
import torch

from oboro.base.errors import UserError
from oboro.model import UNet, UNetEncoder

SETTINGS = {"channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention_levels": (1,), "head_channels": 8}
C_NOISE = torch.tensor([-1.0, 0.0, 1.2], dtype=torch.float64)


def make(**keywords):
    with torch.random.fork_rng():  # drawn by torch's layers
        torch.manual_seed(0)
        return UNetEncoder(1, 4, **{**SETTINGS, **keywords}).double().eval()


@pytest.fixture(params=[True, False], ids=["attention", "mean"])
def build(request, randomise):
    """``build()``: the network with random weights and either pooling."""
    return lambda **keywords: randomise(make(attention_pool=request.param, **keywords))


def test_it_starts_with_equal_classes(normal):
    assert torch.equal(make()(normal(3, 1, 8, 8), C_NOISE, {}), torch.zeros(3, 4, dtype=torch.float64))


def test_every_parameter_every_pixel_and_the_noise_take_part(build, normal):
    network, x = build(), normal(3, 1, 7, 10).requires_grad_()
    logits = network(x, C_NOISE, {})
    (logits * normal(3, 4)).sum().backward()
    idle = [name for name, p in network.named_parameters() if not p.grad.any()]
    assert idle == []
    assert x.grad.ne(0).all()
    assert (network(x, C_NOISE + 0.05, {}) - logits).abs().min() > 1e-6


def test_samples_of_a_batch_do_not_influence_each_other(build, normal):
    network, x = build(), normal(3, 1, 8, 8)
    alone = [network(x[i : i + 1], C_NOISE[i : i + 1], {}) for i in range(3)]
    torch.testing.assert_close(network(x, C_NOISE, {}), torch.cat(alone))


def test_checkpointing_changes_nothing_but_memory(build, normal):
    x, gradients = normal(3, 1, 8, 8), []
    for checkpointing in (False, True):
        network = build(checkpointing=checkpointing).train()
        network(x, C_NOISE, {}).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_its_way_down_is_that_of_the_unet():
    """The same names and shapes, so weights of one are weights of the other."""
    with torch.device("meta"):
        encoder, unet = UNetEncoder(1, 4, **SETTINGS), UNet(1, **SETTINGS, scale_shift=True, residual_resample=True)
    down, whole = (
        {k: v.shape for k, v in network.state_dict().items() if not k.startswith("last.")}
        for network in (encoder, unet)
    )
    assert down == {k: v for k, v in whole.items() if not k.startswith("up.")}


def test_what_it_cannot_do_is_refused(normal):
    with pytest.raises(UserError, match=r"labelled data.*set data\.num_classes"):
        UNetEncoder(1, 1, **SETTINGS)
    with pytest.raises(ValueError, match="cannot be halved down to 1/2"):
        make()(normal(3, 1, 8, 1), C_NOISE, {})


def test_the_tiny_one_costs_less_than_a_tenth_of_a_gigaflop(flop, count_parameters):
    assert flop("unet_encoder_tiny", 28) < 0.1e9 and count_parameters("unet_encoder_tiny", 1, 10) < 0.35e6
