"""What training keeps in memory, counted on tensors that exist."""

import pytest
import torch

from oboro.adapter import LoRA
from oboro.ema import EMA, ConstantDecay
from oboro.model import DiT, UNet
from oboro.task.memory import footprint


@pytest.mark.parametrize("adapted", [False, True])
def test_the_numbers_are_those_of_the_tensors(adapted):
    network = UNet(1, channels=8, channel_mult=(1, 2), blocks=1, attention_levels=(1,), head_channels=8)
    if adapted:
        LoRA(rank=2)(network)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad])
    ema = EMA({"a": ConstantDecay(), "b": ConstantDecay(0.9)})
    ema.start(network)
    network(torch.ones(1, 1, 8, 8), torch.ones(1), {}).sum().backward()
    optimizer.step()
    ema.update(network)
    found = footprint(network, profiles=2)
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert found.moments == sum(m.nbytes for m in moments)
    assert found.gradients == sum(p.grad.nbytes for p in network.parameters() if p.grad is not None)
    assert found.averages == sum(a.nbytes for averages in ema.averages.values() for a in averages)
    assert found.total == found.weights + found.gradients + found.moments + found.averages


@pytest.mark.parametrize(
    ("targets", "trained", "megabytes"), [(["attention"], 221_184, 4.4), (["linear", "convolution"], 874_688, 17)]
)
def test_the_table_of_the_documentation(targets, trained, megabytes):
    """Of rank 8 beside the attention of a DiT-S/2: 12 blocks of 8 (384 + 1152) + 8 (384 + 384) parameters."""
    with torch.device("meta"):
        full, adapted = DiT(3), DiT(3)
        LoRA(8, 8.0, targets)(adapted)
    a, b = footprint(full), footprint(adapted)
    assert a.trained == a.parameters == 32_471_436 and a.total == 24 * a.parameters
    assert b.trained == trained and b.parameters == a.parameters + trained
    assert b.total == 4 * b.parameters + 20 * trained
    assert (b.total - b.weights) / 1e6 == pytest.approx(megabytes, rel=0.03)
    assert 12 * 8 * (384 + 1152 + 384 + 384) == 221_184
