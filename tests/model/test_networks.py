"""What holds of every network beside the U-Net, whose tests say more."""

import pytest
import torch

from oboro.condition import Label
from oboro.model import DiT, EDM2UNet, GroupNormSettings, LDMAttention, LDMUNet, SongUNet, StepIndex, UNet
from oboro.schedule import DDPM

UNET = {"dropout": 0.0, "channels": 8, "channel_mult": (1, 2), "blocks": 1, "attention_levels": (1,)}
DIT = {"patch": 2, "dim": 16, "depth": 2, "heads": 2, "reference_size": 8}
LDM = {"widths": (8, 16), "blocks": 1, "attention": LDMAttention(levels=(1,), heads=(1, 2))}
NETWORKS = {
    "dit": (DiT, DIT),
    "dit_rotary": (DiT, {**DIT, "rotary": True, "patch": 4}),
    "edm2_unet": (EDM2UNet, {**UNET, "head_channels": 8}),
    "edm2_unet_flat": (EDM2UNet, {**UNET, "channel_mult": (2,), "attention_levels": ()}),
    "ddpmpp": (SongUNet, {**UNET, "noise_channels": 8}),
    "ncsnpp": (SongUNet, {**UNET, "noise_channels": 16, "fourier": True, "pyramid": True, "taps": (1, 3, 3, 1)}),
    "ldm_unet": (LDMUNet, {**LDM, "noise": StepIndex(DDPM()), "norm": GroupNormSettings(4)}),
    "ldm_unet_ddpm": (
        LDMUNet,
        {**LDM, "noise": StepIndex(DDPM(), False, 1), "norm": GroupNormSettings(2), "padded_downsample": True},
    ),
    "ncsnpp_deep": (SongUNet, {**UNET, "channel_mult": (1, 2, 2), "pyramid": True, "attention_levels": ()}),
}


def make(cls, in_channels=1, **keywords):
    with torch.random.fork_rng():  # drawn by torch's layers
        torch.manual_seed(0)
        return cls(in_channels, **keywords).double().eval()


@pytest.fixture(params=NETWORKS)
def build(request, randomise):
    """``build(num_classes=3)``: the network with random weights, in eval mode."""
    cls, settings = NETWORKS[request.param]
    return lambda in_channels=1, **keywords: randomise(make(cls, in_channels, **{**settings, **keywords}))


@pytest.fixture
def question(normal):
    """x, c_noise and labels for a batch of three."""
    c_noise = torch.tensor([-1.0, 0.0, 1.2], dtype=torch.float64)
    return normal(3, 1, 8, 8), c_noise, {"label": Label(torch.tensor([0, 2, -1]))}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_starts_as_the_zero_function(name, question):
    cls, settings = NETWORKS[name]
    assert not make(cls, num_classes=3, **settings)(*question).any()


def test_every_parameter_takes_part(build, normal):
    network = build(num_classes=3)
    c_noise = torch.tensor([-1.0, 0.0, 0.5, 1.2], dtype=torch.float64)
    out = network(normal(4, 1, 8, 8), c_noise, {"label": Label(torch.tensor([0, 1, 2, -1]))})
    (out * normal(4, 1, 8, 8)).sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (4, 12), (7, 5), (27, 30)])
def test_any_size_works(build, normal, size):
    """Every pixel of the input, the last row and column too, reaches the output."""
    network = build(3)
    x = normal(1, 3, *size).requires_grad_()
    out = network(x, torch.zeros(1, dtype=torch.float64), {})
    assert out.shape == (1, 3, *size) and out.std() > 0
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert gradient.ne(0).all()


def test_the_least_size_is_the_declared_one(build, normal):
    network = build()
    least = network.min_size
    assert network(normal(1, 1, least, least), normal(1), {}).isfinite().all()
    if least > 1:
        with pytest.raises(ValueError, match=f"cannot be halved down to 1/{least}"):
            network(normal(1, 1, 8, least - 1), normal(1), {})


def test_samples_of_a_batch_do_not_influence_each_other(build, question):
    network, (x, c_noise, cond) = build(num_classes=3), question
    together = network(x, c_noise, cond)
    alone = [network(x[i : i + 1], c_noise[i : i + 1], {"label": cond["label"].rows([i])}) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_checkpointing_changes_nothing_but_memory(build, question):
    """The same gradients, bit by bit, and in the backward pass every layer but the first and last runs once more."""
    x, c_noise, cond = question
    results, calls = [], {False: [], True: []}
    for checkpointing, count in calls.items():
        network = build(num_classes=3, checkpointing=checkpointing).train()
        for layer in network.modules():
            layer.register_forward_pre_hook(lambda module, args, count=count: count.append(id(module)))
        loss = network(x, c_noise, cond).square().mean()
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert len(calls[True]) > 1.6 * len(calls[False])


@pytest.mark.parametrize("autocast", [True, False], ids=["mixed", "true"])
def test_half_precision_is_an_approximation(build, question, autocast):
    """bfloat16 has 8 bits: after some ten layers a few per cent, in the answer and in the gradient."""
    results = []
    for half in (False, True):
        network = build(num_classes=3).float().train()
        x, c_noise = question[0].float(), question[1].bfloat16().float()  # equal levels of noise
        if half and not autocast:
            network, x, c_noise = network.bfloat16(), x.bfloat16(), c_noise.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=half and autocast):
            out = network(x, c_noise, question[2])
        out.float().square().mean().backward()
        results.append([out.float(), network.first.weight.grad.float()])
    for exact, rounded in zip(*results, strict=True):
        assert (rounded - exact).norm() < 0.1 * exact.norm()
        assert not torch.equal(rounded, exact)


@pytest.mark.parametrize("name", [*NETWORKS, "unet"])
def test_a_learned_variance_takes_channels_of_its_own(name, randomise, question):
    """With the weights of a network without one, the first C channels are its answer; the others are something else."""
    cls, settings = {**NETWORKS, "unet": (UNet, {**UNET, "head_channels": 8})}[name]
    plain = randomise(make(cls, 2, num_classes=3, **settings))
    double = randomise(make(cls, 2, num_classes=3, learned_variance=True, **settings), seed=1)
    weights, own = plain.state_dict(), double.state_dict()
    for key, value in own.items():  # the last layer has more rows, those of the variance last
        own[key] = weights[key] if value.ndim == 0 else torch.cat([weights[key], value[len(weights[key]) :]])
    double.load_state_dict(own)
    x, c_noise, cond = question
    x = torch.cat([x, x.square()], 1)
    answer, both = plain(x, c_noise, cond), double(x, c_noise, cond)
    assert both.shape == (3, 4, 8, 8)
    torch.testing.assert_close(both[:, :2], answer)
    channels = both.transpose(0, 1).flatten(1)
    assert torch.cdist(channels, channels).add(torch.eye(4)).min() > 1e-3


# --- the condition


def test_a_dropped_label_is_a_missing_one(build, question):
    network, (x, c_noise, _) = build(num_classes=3), question
    dropped = network(x, c_noise, {"label": Label(torch.full((3,), -1))})
    assert torch.equal(dropped, network(x, c_noise, {}))


def test_labels_change_the_answer_for_their_own_sample(build, question):
    network, (x, c_noise, cond) = build(num_classes=3), question
    out = network(x, c_noise, cond)
    others = network(x, c_noise, {"label": Label(torch.tensor([1, 2, -1]))})
    assert not torch.allclose(out[0], others[0])
    assert torch.equal(out[1:], others[1:])
    answers = torch.cat(
        [network(x[:1], c_noise[:1], {"label": Label(torch.tensor([i]))}) for i in (-1, 0, 1, 2)]
    ).flatten(1)
    assert torch.cdist(answers, answers).add(torch.eye(4)).min() > 1e-3  # no two labels are one


def test_noise_levels_change_the_answer(build, question):
    network, (x, c_noise, _) = build(), question
    assert not torch.allclose(network(x, c_noise, {}), network(x, c_noise + 0.01, {}))
