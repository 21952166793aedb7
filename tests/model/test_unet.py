from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from oboro.base.errors import UserError
from oboro.condition import Label
from oboro.model import UNet


def parameters(network) -> int:
    return sum(p.numel() for p in network.parameters())


@cache
def configured(conf, name, channels, num_classes) -> int:
    """Number of parameters of an option of conf/model."""
    overrides = [f"+model={name}", f"+codec.channels={channels}", f"+conditioner.num_classes={num_classes}"]
    overrides += ["+conditioner.text_dim=0", "+conditioner.pooled_dim=0"]
    with initialize_config_dir(str(conf), version_base="1.3"), torch.device("meta"):
        return parameters(instantiate(compose(overrides=overrides), _convert_="all")["model"])


@pytest.fixture
def question(normal):
    """x, c_noise and labels for a batch of three."""
    c_noise = torch.tensor([-1.0, 0.0, 1.2], dtype=torch.float64)
    return normal(3, 1, 8, 8), c_noise, {"label": Label(torch.tensor([0, 2, -1]))}


VARIANTS = [
    {},
    {"scale_shift": False, "head_channels": 0},
    {"residual_resample": True, "num_classes": 3},
    {"channel_mult": (1, 2, 2), "blocks": 2, "attention_levels": (1, 2)},
    {"channel_mult": (2,), "attention_levels": ()},
]
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=["default", "ddpm", "adm", "deep", "flat"])


def test_unet_is_the_network_of_ddpm(conf):
    assert configured(conf, "unet", 3, 0) == 35_746_307  # 35.7 M, arXiv:2006.11239, app. B


def test_unet_large_is_the_network_of_adm(conf):
    assert 295e6 < configured(conf, "unet_large", 3, 1000) < 296e6  # 296 M, arXiv:2105.05233, table 12


def test_unet_small_is_small(conf):
    assert 1.5e6 < configured(conf, "unet_small", 1, 10) < 4.5e6


def test_it_starts_as_the_zero_function(question):
    network = UNet(1, channels=8, channel_mult=(1, 2), num_classes=3).double()
    assert not network(*question).any()


@each_variant
def test_every_parameter_takes_part(variant, small_unet, normal):
    """The gradient reaches every tensor: no layer is left out, no skip connection is cut."""
    network = small_unet(**variant)
    cond = {"label": Label(torch.tensor([0, 1, 2, -1]))} if "label" in network.reads else {}
    out = network(normal(4, 1, 8, 8), torch.tensor([-1.0, 0.0, 0.5, 1.2], dtype=torch.float64), cond)
    (out * normal(4, 1, 8, 8)).sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@each_variant
def test_every_activation_on_the_way_down_arrives_on_the_way_up(variant, small_unet, normal):
    """Skips are taken last in, first out: each is joined at its own resolution, and none is left."""
    network, seen = small_unet(**variant), []
    for layer in [network.first, *network.down]:
        layer.register_forward_hook(lambda module, args, out: seen.append(out))
    joined = []
    for stages in network.up:
        stages[0].register_forward_pre_hook(lambda module, args: joined.append(args[0]))
    network(normal(2, 1, 8, 8), torch.zeros(2, dtype=torch.float64), {})
    assert len(joined) == len(seen)
    for h, skip in zip(joined, reversed(seen), strict=True):
        assert torch.equal(h[:, -skip.shape[1] :], skip)


@each_variant
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (4, 12), (16, 8), (7, 5), (27, 30)])
def test_any_size_works(variant, small_unet, normal, size):
    """Odd sizes are halved upwards; every pixel of the input, the last row and column too, reaches the output."""
    network = small_unet(in_channels=3, **variant)
    x = normal(1, 3, *size).requires_grad_()
    out = network(x, torch.zeros(1, dtype=torch.float64), {})
    assert out.shape == (1, 3, *size) and out.std() > 0
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert gradient.ne(0).all()


@pytest.mark.parametrize("size", [(3, 8), (8, 2), (1, 1)])
def test_a_size_that_cannot_be_halved_is_refused(small_unet, normal, size):
    network = small_unet(channel_mult=(1, 2, 2))
    assert network.min_size == 4
    with pytest.raises(ValueError, match="cannot be halved down to 1/4"):
        network(normal(1, 1, *size), torch.zeros(1, dtype=torch.float64), {})


def test_a_level_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match=r"attention_levels=\[3\].*use levels 0 to 2"):
        UNet(1, channels=8, channel_mult=(1, 2, 2), attention_levels=[3])


def test_moving_the_image_moves_the_answer(small_unet, normal):
    """On a torus, and without attention: shifts by multiples of the stride commute with the network."""
    network = small_unet(attention_levels=())
    network.middle[0].attention = torch.nn.Identity()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.padding_mode = "circular" if module.kernel_size == (3, 3) else "zeros"
            module._reversed_padding_repeated_twice = [p for p in reversed(module.padding) for _ in range(2)]
    x, c_noise = normal(1, 1, 16, 16), torch.zeros(1, dtype=torch.float64)
    moved = network(x.roll((4, 2), (2, 3)), c_noise, {})
    torch.testing.assert_close(moved, network(x, c_noise, {}).roll((4, 2), (2, 3)))


@each_variant
def test_samples_of_a_batch_do_not_influence_each_other(variant, small_unet, normal):
    network = small_unet(**variant)
    x, c_noise = normal(3, 1, 8, 8), torch.tensor([-1.0, 0.0, 1.2], dtype=torch.float64)
    together = network(x, c_noise, {})
    alone = torch.cat([network(x[i : i + 1], c_noise[i : i + 1], {}) for i in range(3)])
    torch.testing.assert_close(together, alone)
    changed = network(torch.cat([x[:1], 100 * x[1:]]), c_noise, {})
    assert torch.equal(changed[0], together[0])


@each_variant
def test_checkpointing_changes_nothing_but_memory(variant, small_unet, normal):
    results = []
    x, c_noise = normal(2, 1, 8, 8), torch.tensor([-1.0, 0.5], dtype=torch.float64)
    for checkpointing in (False, True):
        network = small_unet(checkpointing=checkpointing, **variant).train()
        loss = network(x, c_noise, {}).square().mean()
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_checkpointing_keeps_no_activations(small_unet, normal):
    """Each stage runs once more in the backward pass."""
    calls = {}
    for checkpointing in (False, True):
        network = small_unet(checkpointing=checkpointing)
        count = calls.setdefault(checkpointing, [])
        for stage in [*network.down, *network.middle, *(s for stages in network.up for s in stages)]:
            stage.register_forward_pre_hook(lambda module, args, count=count: count.append(1))
        network(normal(1, 1, 8, 8), torch.zeros(1, dtype=torch.float64), {}).sum().backward()
    assert len(calls[True]) == 2 * len(calls[False])


# --- the condition


def test_a_dropped_label_is_a_missing_one(small_unet, question):
    network, (x, c_noise, _) = small_unet(num_classes=3), question
    dropped = network(x, c_noise, {"label": Label(torch.full((3,), -1))})
    assert torch.equal(dropped, network(x, c_noise, {}))


def test_labels_change_the_answer_for_their_own_sample(small_unet, question):
    network, (x, c_noise, cond) = small_unet(num_classes=3), question
    out = network(x, c_noise, cond)
    others = network(x, c_noise, {"label": Label(torch.tensor([1, 2, -1]))})
    assert not torch.allclose(out[0], others[0])
    assert torch.equal(out[1:], others[1:])


def test_noise_levels_change_the_answer(small_unet, question):
    network, (x, c_noise, _) = small_unet(), question
    assert not torch.allclose(network(x, c_noise, {}), network(x, c_noise + 0.01, {}))


def test_dropout_is_for_training_only(small_unet, question):
    network, (x, c_noise, _) = small_unet(dropout=0.5), question
    assert torch.equal(network(x, c_noise, {}), network(x, c_noise, {}))
    torch.testing.assert_close(network(x, c_noise, {}), small_unet(dropout=0.0)(x, c_noise, {}))
    network.train()
    assert not torch.equal(network(x, c_noise, {}), network(x, c_noise, {}))
