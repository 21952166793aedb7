"""Derivatives of networks along a direction."""

import pytest
import torch

from model.test_networks import NETWORKS, UNET, make
from oboro.loss.derivative import along, root_mean_square
from oboro.model import UNet
from oboro.model.dropout import Dropout

CASES = {"unet": (UNet, {**UNET, "head_channels": 8}), **NETWORKS}


@pytest.mark.parametrize("name", CASES)
def test_every_network_has_an_exact_derivative(name, randomise, normal):
    """Attention too, for which fused kernels have none: that of a difference a thousand times as fine as ours."""
    cls, settings = CASES[name]
    network = randomise(make(cls, **settings))
    x, c = normal(2, 1, 8, 8), torch.tensor([-0.3, 0.4], dtype=torch.float64)
    moves = 0.0 if "ldm" in name else 0.3  # that network rounds the noise level to a step, which has no slope
    dx, dc = normal(2, 1, 8, 8), torch.tensor([moves, -moves], dtype=torch.float64)
    exact = along(lambda x, c: network(x, c, {}), (x, c), (dx, dc), "exact")
    with torch.no_grad():
        above, below = (network(x + h * dx, c + h * dc, {}) for h in (2e-6, -2e-6))
    assert exact.std() > 1e-3
    torch.testing.assert_close(exact, (above - below) / 4e-6, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("how", ["exact", "finite"])
def test_it_is_a_constant_in_full_precision_wherever_it_is_computed(how, normal):
    """Of sin(w x): under autocast and in validation's inference mode, without a gradient and without a trace in the
    generator that dropout reads."""
    w = torch.nn.Parameter(torch.tensor(1.3))
    mask = Dropout(0.5).train()
    x, t = normal(4, 3).float(), torch.zeros(4)

    def f(x, t):
        return mask(torch.sin(x @ (w * torch.eye(3))) + t[:, None])

    torch.manual_seed(7)
    kept = mask(torch.ones(4, 3))
    expected = (w * torch.cos(w * x) + 1) * kept
    for context in (torch.enable_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        torch.manual_seed(7)
        with context:
            slope = along(f, (x, t), (torch.ones_like(x), torch.ones_like(t)), how)
            after = torch.rand(1)
        torch.manual_seed(7)
        assert torch.equal(after, torch.rand(1))
        assert slope.dtype == torch.float32 and not slope.requires_grad
        torch.testing.assert_close(slope, expected.detach(), rtol=2e-3, atol=2e-3)


def test_root_mean_square_of_chosen_samples():
    x, rows = torch.tensor([[3.0, 4.0], [100.0, 0.0], [1.0, 0.0]]), torch.tensor([True, False, True])
    assert root_mean_square(x, rows).item() == pytest.approx((26 / 4) ** 0.5)
    assert root_mean_square(x, torch.zeros(3, dtype=torch.bool)) == 0
