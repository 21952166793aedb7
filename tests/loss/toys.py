"""Denoisers whose loss is known, and the parts of a loss for tests."""

from typing import ClassVar

import torch
from torch import nn

from conftest import configured
from oboro.condition import Label
from oboro.denoiser.exact import GaussianDenoiser
from oboro.loss import Denoising, coupling, penalty, time, weighting
from oboro.parameterization import V
from oboro.schedule import expand_as

TIMES = configured("loss/time", without=("fixed",))  # which is a point and has no density
WEIGHTS = configured("loss/weighting", "+parameterization=edm")
U = torch.tensor([0.02, 0.3, 0.5, 0.8, 0.97], dtype=torch.float64)


def loss_of(p_t=None, weight=None, **settings) -> Denoising:
    """The default loss but for what is named."""
    parts = {"penalty": penalty.Squared(), "coupling": coupling.Independent(), **settings}
    return Denoising(p_t or time.Uniform(), weight or weighting.Uniform(), **parts)


def level(schedule, parameterization=None, p_t=None, u=U) -> time.Level:
    return time.Level(u, p_t or time.Uniform(), schedule, parameterization or V())


def midpoints(n: int) -> torch.Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


class Wave(nn.Module):
    """A network without weights that depends on all of its arguments."""

    reads: ClassVar = {"label": Label}

    def forward(self, x, c_noise, cond):
        return torch.sin(3 * x + expand_as(c_noise, x)) + sum(expand_as(v.index, x) for v in cond.values())


class Recorder:
    """A denoiser that keeps (x_t, t) and answers 0."""

    def __init__(self, schedule, parameterization=None):
        self.schedule, self.parameterization = schedule, parameterization or V()

    def __call__(self, x_t, t, cond):
        self.x_t, self.t = x_t, t
        return torch.zeros_like(x_t)


class OffBy:
    """For x = 0: a denoiser whose squared error is ``size(log_snr)``."""

    def __init__(self, schedule, size):
        self.schedule, self.parameterization, self.size = schedule, V(), size

    def __call__(self, x_t, t, cond):
        return expand_as(self.size(self.schedule.log_snr(t)).sqrt(), x_t) * torch.ones_like(x_t)


class Perturbed:
    """The exact denoiser plus ``change(D, c_out)``."""

    def __init__(self, schedule, parameterization, change):
        self.exact = GaussianDenoiser(0.3, 0.7, schedule)
        self.schedule, self.parameterization, self.change = schedule, parameterization, change

    def __call__(self, x_t, t, cond):
        exact = self.exact(x_t, t, cond)
        c_out = expand_as(self.parameterization(*self.schedule(t)).c_out, x_t)
        return exact + self.change(exact, c_out)


def by_hand(denoiser, x, cond, t, eps):
    """x_t, network output, network target and the coefficients, each step written out."""
    alpha, sigma = (expand_as(c, x) for c in denoiser.schedule(t))
    c = denoiser.parameterization(alpha, sigma)
    x_t = alpha * x + sigma * eps
    output = denoiser.network(c.c_in * x_t, c.c_noise.flatten(), cond.signals)
    return x_t, output, denoiser.parameterization.target(x, eps, alpha, sigma), c
