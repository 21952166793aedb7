"""Low-rank updates: where they begin, what they add, and that they can be added to the weights."""

import pytest
import torch
from torch import nn

from oboro.adapter import LoRA, low_rank_layers, merged_state, plain_state, read_adapter, write_adapter
from oboro.adapter.file import PREFIX, A, AdapterFile, B
from oboro.base.errors import UserError
from oboro.condition import Text
from oboro.model import DiT, EDM2UNet, EmptyText, GroupNormSettings, LDMAttention, LDMUNet, SongUNet, StepIndex, UNet
from oboro.schedule import DDPM

TEXT = {"text_dim": 6, "pooled_dim": 5}
LEVELS = {"channels": 8, "channel_mult": (1, 2), "blocks": 1}
NETWORKS = {
    "unet": lambda: UNet(1, **LEVELS, attention_levels=(1,), head_channels=8, num_classes=3),
    "unet_text": lambda: UNet(2, **LEVELS, attention_levels=(0,), checkpointing=True, **TEXT),
    "ldm_unet": lambda: LDMUNet(
        1,
        StepIndex(DDPM()),
        widths=(8, 16),
        blocks=1,
        attention=LDMAttention(levels=(0,), heads=(2, 2), middle=False),
        norm=GroupNormSettings(4),
        text_dim=6,
        empty_text=EmptyText(3, 6),
    ),
    "dit": lambda: DiT(1, dim=16, depth=2, heads=2, **TEXT),
    "song_unet": lambda: SongUNet(1, channels=8, channel_mult=(1, 2), blocks=1, attention_levels=(1,)),
}
TARGETS = (["attention"], ["linear", "convolution"])
each_network = pytest.mark.parametrize("name", NETWORKS)
each_target = pytest.mark.parametrize("targets", TARGETS, ids="+".join)


@pytest.fixture
def build(randomise):
    """``build(name)``: a frozen network with random weights in float64; ``build(name, LoRA(...))``: the same, adapted.

    torch multiplies by weights that want a gradient in another order, so bits are compared without any.
    """

    def build(name, lora=None):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = randomise(NETWORKS[name]()).double().eval().requires_grad_(False)
            if lora is not None:
                lora(network)
        return network

    return build


@pytest.fixture
def trained(build, normal):
    """``build`` with an adapter whose A and B are random."""

    def trained(name, lora):
        network = build(name, lora)
        with torch.no_grad():
            for _, layer in low_rank_layers(network):
                layer.A.weight.copy_(normal(*layer.A.weight.shape) / layer.A.weight[0].numel() ** 0.5)
                layer.B.weight.copy_(normal(*layer.B.weight.shape) / 10)
        return network

    return trained


@pytest.fixture
def inputs(normal):
    def inputs(network):
        cond = {}
        if "text" in network.reads:
            mask = torch.tensor([[True, True, False], [True, False, False]])
            cond = {"text": Text(normal(2, 3, 6), mask, normal(2, 5))}
        channels = 2 if type(network) is UNet and "text" in network.reads else 1
        return normal(2, channels, 9, 8), normal(2), cond

    return inputs


@torch.no_grad()
@each_network
@each_target
def test_training_begins_with_the_outputs_of_the_base(name, targets, build, inputs):
    base, adapted = build(name), build(name, LoRA(3, 5.0, targets))
    told = inputs(base)
    assert base(*told).abs().max() > 0.01
    assert torch.equal(adapted(*told), base(*told))


@each_network
@each_target
def test_merged_weights_compute_the_same(name, targets, build, trained, inputs):
    adapted, merged = trained(name, LoRA(3, 5.0, targets)), build(name)
    told = inputs(merged)
    before = merged(*told)
    merged.load_state_dict(merged_state(adapted))
    torch.testing.assert_close(merged(*told), adapted(*told), rtol=1e-10, atol=1e-10)
    assert (merged(*told) - before).abs().max() > 1e-3
    single, plain = adapted.float(), merged.float()
    told = (
        told[0].float(),
        told[1].float(),
        {k: signal.map(lambda v: v.float() if v.is_floating_point() else v) for k, signal in told[2].items()},
    )
    torch.testing.assert_close(plain(*told), single(*told), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@each_network
def test_scale_zero_is_the_base_exactly(name, build, trained, inputs):
    base, adapted = build(name), trained(name, LoRA(3, 0.0, ["linear", "convolution"]))
    told = inputs(base)
    assert torch.equal(adapted(*told), base(*told))
    merged = merged_state(adapted)
    assert all(torch.equal(merged[key], w) for key, w in base.state_dict().items())


@each_network
def test_an_update_has_the_rank_and_is_linear_in_alpha(name, build, trained):
    """W' - W has rank 3 where W has more; the layer of an adapter with twice the alpha adds twice as much."""
    base = build(name).state_dict()
    adapted = trained(name, LoRA(3, 6.0, ["linear", "convolution"]))
    layers = dict(low_rank_layers(adapted))
    merged = merged_state(adapted)
    ranks = [
        (torch.linalg.matrix_rank((merged[f"{k}.weight"] - base[f"{k}.weight"]).flatten(1)), layer)
        for k, layer in layers.items()
    ]
    assert all(rank <= 3 for rank, _ in ranks) and any(rank == 3 for rank, _ in ranks)
    for _, layer in ranks:
        expected = 6.0 / 3 * torch.einsum("or,r...->o...", layer.B.weight.flatten(1), layer.A.weight)
        torch.testing.assert_close(layer.update, expected.view_as(layer.base.weight))


@each_network
@each_target
def test_only_the_adapters_learn(name, targets, build, inputs):
    """Their parameters are the ones with a gradient, r (in + out) of each layer; a step leaves the base as it is."""
    base, adapted = build(name), build(name).requires_grad_(True)
    LoRA(2, 2.0, targets)(adapted)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    layers = list(low_rank_layers(adapted))
    assert sum(p.numel() for p in trained) == sum(
        2 * (layer.base.weight[0].numel() + len(layer.base.weight)) for _, layer in layers
    )
    optimizer = torch.optim.SGD(adapted.parameters(), 0.1)
    told = inputs(base)
    for _ in range(2):
        optimizer.zero_grad()
        adapted(*told).square().sum().backward()
        optimizer.step()
    assert all(torch.equal(w, base.state_dict()[key]) for key, w in plain_state(adapted).items())
    assert plain_state(adapted).keys() == base.state_dict().keys()
    assert all(layer.A.weight.grad.abs().max() > 0 for _, layer in layers if layer.B.weight.abs().max() > 0)
    assert not torch.equal(adapted(*told), base(*told))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("unet", 2 * (2 + 2)),
        ("unet_text", 2 * 3 * 3 + 2 + 3),
        ("ldm_unet", 3 * 2 * 3),
        ("dit", 2 * (2 + 3)),
        ("song_unet", None),
    ],
)
def test_attention_is_queries_keys_values_and_outputs(name, count, build):
    """Two layers of each self-attention, three of each attention to a text, and nothing else."""
    network = build(name, LoRA())
    names = [key for key, _ in low_rank_layers(network)]
    assert {key.rpartition(".")[2] for key in names} <= {"qkv", "proj", "query", "key_value"}
    everything = [key for key, layer in build(name).named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert names == [k for k in everything if k.rpartition(".")[2] in ("qkv", "proj", "query", "key_value")]
    every = [key for key, _ in low_rank_layers(build(name, LoRA(targets=["linear", "convolution"])))]
    assert every == everything


def test_a_file_holds_the_update(build, trained, tmp_path):
    lora = LoRA(3, 5.0, ["linear", "convolution"])
    adapted, base = trained("unet_text", lora), build("unet_text")
    write_adapter(tmp_path / "adapter.safetensors", adapted, lora)
    file = read_adapter(tmp_path / "adapter.safetensors")
    state = {f"network.{key}": w for key, w in base.state_dict().items()}
    merged = merged_state(adapted)
    for scale, share in ((1.0, 1.0), (0.5, 0.5), (0.0, 0.0)):
        for key, w in file.added(state, "network.", scale).items():
            expected = state[key] + share * (merged[key.removeprefix("network.")] - state[key])
            torch.testing.assert_close(w, expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(UserError, match="absent or of another shape in the model"):
        file.added({key: w[:1] for key, w in state.items()}, "network.", 1.0)


@each_target
def test_peft_computes_the_same_from_the_file(targets, build, trained, inputs, tmp_path):
    """The reference implementation with our file: its names, its shapes, its output."""
    peft = pytest.importorskip("peft")
    from safetensors.torch import load_file

    lora = LoRA(3, 5.0, targets)
    adapted, theirs = trained("unet", lora), build("unet")
    names = [name for name, _ in low_rank_layers(adapted)]
    pattern = "|".join(name.replace(".", r"\.") for name in names)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=pattern)
    theirs = peft.inject_adapter_in_model(config, theirs)
    write_adapter(tmp_path / "adapter.safetensors", adapted, lora)
    tensors = load_file(tmp_path / "adapter.safetensors")
    wanted = {f"base_model.model.{key}" for key in peft.get_peft_model_state_dict(theirs)}
    assert set(tensors) == wanted
    named = {key.removeprefix("base_model.model."): w for key, w in tensors.items()}
    result = peft.set_peft_model_state_dict(theirs, named)
    assert not result.unexpected_keys
    told = inputs(adapted)
    torch.testing.assert_close(theirs.double()(*told), adapted(*told), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 0}, "set adapter.rank to 1 or more"),
        ({"targets": ["atention"]}, "choose of attention, linear and convolution"),
        ({"targets": []}, "choose of attention, linear and convolution"),
    ],
)
def test_wrong_settings_are_said(settings, said):
    with pytest.raises(UserError, match=said):
        LoRA(**settings)


def test_a_network_without_such_layers_is_said():
    with pytest.raises(UserError, match="adapter=full for networks of unit weights"):
        LoRA()(EDM2UNet(1, channels=8, channel_mult=(1, 2), blocks=1, attention_levels=(1,), head_channels=8))


def test_a_file_of_something_else_is_said(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "text").write_text("no tensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    for name, said in (("text", "is damaged or no safetensors"), ("other", "other tensors"), ("none", "no adapter")):
        with pytest.raises(UserError, match=said):
            read_adapter(tmp_path / name)
    a, b = f"{PREFIX}x{A}", f"{PREFIX}x{B}"
    save_file({a: torch.zeros(2, 3), b: torch.zeros(3, 4)}, tmp_path / "ranks")
    for header in ("no json", '{"rank": 0, "alpha": 1}', '{"alpha": 1}'):
        save_file({a: torch.zeros(2, 3), b: torch.zeros(3, 2)}, tmp_path / "header", {"adapter": header})
        with pytest.raises(UserError, match="no alpha and rank"):
            read_adapter(tmp_path / "header")
    with pytest.raises(UserError, match="different ranks"):
        read_adapter(tmp_path / "ranks")
    assert AdapterFile(tmp_path, {}, 1.0).added({}, "", 1.0) == {}
