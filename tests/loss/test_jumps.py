"""A small network learns to jump: samples of one step have the moments of the data."""

from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import nn

from loss.test_flow_maps import MIXTURE, mean_flow
from oboro.condition import Condition, End
from oboro.denoiser import Denoiser
from oboro.loss.time import Uniform
from oboro.parameterization import Velocity
from oboro.sampler import DDIM
from oboro.schedule import Linear


class Network(nn.Module):
    """An MLP for samples (B, 2)."""

    reads: ClassVar = {"end": End}

    def __init__(self, width=128):
        super().__init__()
        widths = [2 + 6, width, width, width]
        layers = [[nn.Linear(a, b), nn.SiLU()] for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*[layer for pair in layers for layer in pair], nn.Linear(width, 2))

    def forward(self, x, c_noise, signals):
        e = signals["end"].angle
        features = torch.stack([c_noise, c_noise.tanh(), e, (3 * e).sin(), (3 * e).cos(), (6 * e).cos()], 1)
        return self.layers(torch.cat([x, features], 1))


def data(n, g):
    """Two numbers of ``MIXTURE``."""
    first = torch.rand(n, 2, generator=g) < MIXTURE.weights[0]
    return torch.where(first, *MIXTURE.means.float()) + MIXTURE.std * torch.randn(n, 2, generator=g)


@pytest.mark.slow
def test_one_step_of_mean_flow_has_the_moments_of_the_data():
    """Which one step of a denoiser has not: it gives the mean of all data, whatever the noise."""
    g = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = Denoiser(Network(), Linear(), Velocity())
    loss, steps = mean_flow(share=0.5, time=Uniform(), end_time=Uniform()), 500
    optimizer = torch.optim.Adam(denoiser.parameters(), 2e-3)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss(denoiser, data(512, g), Condition(), g, step).mean().backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        rate.step()
    real, z = data(20_000, g), torch.randn(20_000, 2, generator=g)
    with torch.no_grad():
        one = DDIM(1)(denoiser, z, Condition(), None)
        mean = denoiser(z, torch.ones(len(z)), Condition())
    torch.testing.assert_close(one.mean(0), real.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(one.std(0), real.std(0), rtol=0.2, atol=0)
    assert (mean.std(0) < 0.3 * real.std(0)).all()
