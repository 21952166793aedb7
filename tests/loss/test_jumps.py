"""A small network learns to jump: samples of one step have the moments of the data."""

from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import nn

from loss.test_flow_maps import MIXTURE, Exact, consistency, mean_flow
from oboro.condition import Condition, End
from oboro.denoiser import Denoiser, MixtureDenoiser
from oboro.loss import Denoising
from oboro.loss.coupling import Independent
from oboro.loss.penalty import Squared
from oboro.loss.time import LogNormal, Uniform
from oboro.loss.weighting import Uniform as Weight
from oboro.parameterization import EDM, Velocity
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


def untrained(parameterization):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Denoiser(Network(), Linear(), parameterization)


def train(denoiser, loss, steps, g):
    optimizer = torch.optim.Adam(denoiser.parameters(), 2e-3)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss(denoiser, data(512, g), Condition(), g, step).mean().backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        rate.step()


def check_moments(denoiser, g):
    """Those of samples of one step against those of the data."""
    real, z = data(20_000, g), torch.randn(20_000, 2, generator=g)
    with torch.no_grad():
        one = DDIM(1)(denoiser, z, Condition(), None)
    torch.testing.assert_close(one.mean(0), real.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(one.std(0), real.std(0), rtol=0.2, atol=0)


@pytest.mark.slow
def test_one_step_of_mean_flow_has_the_moments_of_the_data():
    """Which one step of a denoiser has not: it gives the mean of all data, whatever the noise."""
    g, denoiser = torch.Generator().manual_seed(0), untrained(Velocity())
    train(denoiser, mean_flow(share=0.5, time=Uniform(), end_time=Uniform()), 500, g)
    check_moments(denoiser, g)
    z = torch.randn(20_000, 2, generator=g)
    with torch.no_grad():
        mean = denoiser(z, torch.ones(len(z)), Condition())
    assert (mean.std(0) < 0.3 * data(20_000, g).std(0)).all()


@pytest.mark.slow
def test_one_step_of_continuous_consistency_distillation_has_the_moments_of_the_data():
    """From a denoiser on, along the exact flow. The data have a standard deviation of 0.9: with the half that is usual
    for pictures it takes three times the steps."""
    g, denoiser = torch.Generator().manual_seed(0), untrained(EDM(0.9))
    train(denoiser, Denoising(Uniform(), Weight(), Squared(), Independent()), 500, g)
    with pytest.raises(AssertionError):
        check_moments(denoiser, g)
    exact = MixtureDenoiser(MIXTURE.weights.float(), MIXTURE.means.float(), MIXTURE.std, Linear())
    parts = {"time": LogNormal(0.0, 1.6), "weighting": Weight(), "sigma_data": 0.9, "normalisation": 0.1}
    train(denoiser, consistency(**parts, warmup_steps=200, teacher=Exact(exact)), 2000, g)
    check_moments(denoiser, g)
