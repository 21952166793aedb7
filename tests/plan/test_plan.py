"""What a plan adds up, and what it counts: laws, and values that are known."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from oboro.plan import Item, Plan
from oboro.plan.memory import Activations, size, state_size
from oboro.plan.operations import Operations
from oboro.plan.plan import LATENCY, all_reduce_seconds
from oboro.plan.probe import times
from oboro.report.plan import duration


def test_gradients_go_round_a_ring():
    """Each device sends 2 (N - 1) / N of them: nothing for one, all of them once for two, twice for many."""
    assert all_reduce_seconds(10**9, 1, 1e9) == 0
    assert all_reduce_seconds(10**9, 2, 1e9) == pytest.approx(1 + 2 * LATENCY)
    assert all_reduce_seconds(10**9, 1000, 1e9) == pytest.approx(2, rel=0.1)


def test_a_run_is_the_sum_of_its_parts():
    """Devices share what is drawn and measured, and not what one of them writes; money is for all of them."""
    items = (Item("measuring", 60.0, 3), Item("checkpoints", 2.0, 5, shared=False))
    one, four = (Plan(1000, 64, n, 0.5, 10.0, items, price=3.6) for n in (1, 4))
    assert (one.training_seconds, one.evaluation_seconds, one.seconds) == (500, 190, 700)
    assert four.seconds == 10 + 500 + 45 + 10
    assert one.cost == pytest.approx(0.7) and four.cost == pytest.approx(4 * 0.565)
    assert one.images_per_second == 128 and one.advice == []
    (advice,) = Plan(100, 64, 1, 0.5, 10.0, items).advice
    assert "measuring takes 3.6 times as long as training" in advice


@pytest.mark.parametrize("every, count", [(0, 1), (1000, 2), (600, 4), (2000, 1), (3000, 1), (1, 2000)])
def test_how_often_an_evaluation_comes(every, count):
    """After every so many steps, and after the last."""
    assert times(SimpleNamespace(max_steps=2000), SimpleNamespace(every_n_steps=every)) == count


def kept(rows):
    """Bytes that a small network keeps for the backward pass."""
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    activations, x = Activations(), torch.randn(rows, 4).double()
    with activations.recorded(network):
        network(x).sum().backward()
    return activations.bytes


def test_what_is_kept_for_the_backward_pass():
    """The inputs of the two layers, of which the second is the output of the ReLU as well, and no weight."""
    assert kept(5) == 5 * (4 + 8) * 8 and kept(10) == 2 * kept(5)


def test_what_an_optimizer_keeps():
    """Adam has two numbers for each weight, and a step for each tensor."""
    network = nn.Linear(4, 8)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(3, 4)).sum().backward()
    assert state_size(optimizer) == 0
    optimizer.step()
    assert state_size(optimizer) == 2 * size(network.parameters()) + 2 * 4 == 2 * 4 * 40 + 8


def test_operations_of_a_layer():
    """2 B m n forward, as much for the gradient of the weights, and for that of an input that has one; penalties on
    gradients are counted, too."""
    layer, x = nn.Linear(30, 20, bias=False), torch.randn(7, 30)
    with Operations() as forward:
        y = layer(x)
    with Operations() as backward:
        y.sum().backward()
    assert forward.total == backward.total == 2 * 7 * 30 * 20
    x.requires_grad_()
    with Operations() as penalty:
        (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
    assert penalty.total > 2 * forward.total


def test_durations_are_read_at_a_glance():
    assert [duration(s) for s in (0.0351, 4.06, 59.99, 312, 3900, 360_000)] == [
        "35.1 ms",
        "4.06 s",
        "60 s",
        "5 min 12 s",
        "1 h 5 min",
        "100 h 0 min",
    ]
