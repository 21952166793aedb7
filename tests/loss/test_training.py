"""Every schedule, parameterization and weight trains a small network to the density of its data, each with each other.

The data are a correlated two-dimensional Gaussian, whose exact D is affine in x_t at each noise level. The network is
linear in its weights: an affine map of its input whose entries are Chebyshev polynomials of the angle of the noise
level, atan(sigma / alpha). So the loss is a quadratic function of the weights, and one Newton step is all the training.
A probability-flow solver is then an affine map of x_T too, and three points tell its mean and covariance exactly.
"""

from math import pi

import pytest
import torch
from torch import nn

from cases import pairs
from conftest import PARAMETERIZATIONS, SCHEDULES, defined
from loss.toys import WEIGHTS, level, loss_of
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss.time import T_MIN, LogNormal
from oboro.loss.weighting import SNR, Weight
from oboro.sampler import Heun
from oboro.sampler.grid import LogSNR
from oboro.schedule import Linear

MEAN = torch.tensor([0.5, -0.3], dtype=torch.float64)
COV = torch.tensor([[0.6, 0.3], [0.3, 0.4]], dtype=torch.float64)
TOLERANCE = 0.045  # of every entry of mean and covariance; the worst of all combinations is 0.03
WIDE = LogNormal(0.0, 2.2)  # nearly all noise levels that the schedules have
DEGREE = 10


class Affine(nn.Module):
    """F = A(angle) x + b(angle)."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3 * DEGREE, 2, dtype=torch.float64))

    def forward(self, x, c_noise, cond):
        angle = torch.atan(torch.exp(4 * c_noise)) * (4 / pi) - 1  # atan(sigma / alpha), on [-1, 1]
        chebyshev = torch.cos(torch.arange(DEGREE) * torch.acos(angle)[:, None])
        inputs = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        return (chebyshev[:, :, None] * inputs[:, None, :]).flatten(1) @ self.table


def batch(n: int = 2048):
    """Quantiles, data and noise that fill their five dimensions evenly."""
    points = torch.quasirandom.SobolEngine(5, scramble=True, seed=0).draw(n, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    z = torch.special.ndtri(points[:, 1:])
    return points[:, 0], MEAN + z[:, :2] @ torch.linalg.cholesky(COV).T, z[:, 2:]


BATCH = batch()


def newton(denoiser: Denoiser, weight: Weight) -> None:
    """The network at the minimum of the objective of training, from its gradient and Hessian at the present weights."""
    table, (u, x, eps) = denoiser.network.table, BATCH
    seen = level(denoiser.schedule, denoiser.parameterization, WIDE, u)
    loss = loss_of(WIDE, weight).at_quantile(denoiser, x, Condition(), u, eps)
    objective = weight.objective(seen, loss)[0].mean()
    (gradient,) = torch.autograd.grad(objective, table, create_graph=True)
    n = table.numel()
    directions = torch.eye(n, dtype=torch.float64).view(n, *table.shape)
    (hessian,) = torch.autograd.grad(gradient, table, directions, is_grads_batched=True)
    hessian, gradient = hessian.reshape(n, n), gradient.detach().reshape(n, 1)
    scale = hessian.diagonal().rsqrt()[:, None]
    step = torch.linalg.lstsq(scale * hessian * scale.T, -scale * gradient, rcond=1e-13, driver="gelsd").solution
    with torch.no_grad():
        table += (scale * step).view_as(table)


def learn(denoiser: Denoiser, weight: Weight) -> None:
    """The parameters of the weight at their minimum, for the denoiser as it is."""
    u, x, eps = BATCH
    seen = level(denoiser.schedule, denoiser.parameterization, WIDE, u)
    loss = loss_of(WIDE, weight).at_quantile(denoiser, x, Condition(), u, eps).detach()
    optimizer = torch.optim.LBFGS(weight.parameters(), max_iter=10, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        objective = weight.objective(seen, loss)[0].mean()
        objective.backward()
        return objective

    optimizer.step(closure)


def trained(schedule, parameterization, weight: Weight) -> Denoiser:
    denoiser = Denoiser(Affine(), schedule, parameterization)
    newton(denoiser, weight)
    if list(weight.parameters()):
        learn(denoiser, weight)
        newton(denoiser, weight)
    return denoiser


@torch.no_grad()
def moments(denoiser) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of what the sampler makes of x_T ~ N(0, sigma_1² I)."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    cleanest = float(denoiser.schedule.log_snr(torch.tensor(T_MIN, dtype=torch.float64)))  # that the loss trains
    mean, *ends = Heun(64, grid=LogSNR(-9.0, min(9.0, cleanest)))(
        denoiser, denoiser.schedule.prior(corners), Condition(), torch.zeros_like
    )
    slopes = torch.stack([end - mean for end in ends], 1)
    return mean, slopes @ slopes.T


def off(denoiser) -> float:
    mean, cov = moments(denoiser)
    return float(torch.cat([(mean - MEAN).abs(), (cov - COV).abs().flatten()]).max())


def trains(schedule, parameterization) -> bool:
    """A consistency model is no mean of the data given x_t."""
    return defined(schedule, parameterization) and not parameterization.boundary


PAIRS = pairs(schedule=SCHEDULES, parameterization=PARAMETERIZATIONS, weight=WEIGHTS, where=trains)


@pytest.mark.parametrize(("schedule", "parameterization", "weight"), PAIRS)
def test_every_two_parts_train_to_the_moments_of_the_data(schedule, parameterization, weight):
    denoiser = trained(SCHEDULES[schedule], PARAMETERIZATIONS[parameterization], WEIGHTS[weight])
    assert off(denoiser) < TOLERANCE


# --- and the table bites


class Wrong(nn.Module):
    """A denoiser after training: x̂0 from the same network with another c_out."""

    def __init__(self, denoiser, factor):
        super().__init__()
        self.denoiser, self.factor, self.schedule = denoiser, factor, denoiser.schedule

    def forward(self, x_t, t, cond):
        c_skip = self.denoiser.parameterization(*self.schedule(t)).c_skip[:, None]
        return c_skip * x_t + self.factor * (self.denoiser(x_t, t, cond) - c_skip * x_t)


def test_the_wrong_inversion_of_the_target_is_noticed(parameterization):
    denoiser = trained(SCHEDULES["vp"], parameterization, SNR())
    for factor in (-1.0, 0.5, 1.5):
        assert off(denoiser) < TOLERANCE < off(Wrong(denoiser, factor)), factor


class Formula(Weight):
    """A weight of log-SNR for which no paper exists."""

    def __init__(self, w):
        super().__init__()
        self.w = w

    def forward(self, level):
        return self.w(level.log_snr)


@pytest.mark.parametrize(
    "w",
    [
        lambda log_snr: (log_snr < -2).double(),
        lambda log_snr: (log_snr > 2).double(),
        lambda log_snr: (3 * log_snr).exp(),
    ],
    ids=["noisy levels only", "clean levels only", "SNR³"],
)
def test_a_weight_that_blinds_the_loss_is_noticed(w):
    velocity = PARAMETERIZATIONS["velocity"]
    assert off(trained(Linear(), velocity, SNR())) < TOLERANCE < off(trained(Linear(), velocity, Formula(w)))
