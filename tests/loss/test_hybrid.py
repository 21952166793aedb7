"""L_hybrid of improved DDPM: the terms against closed forms, their sum against the entropy of the data."""

from math import log, log2, pi, sqrt
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import distributions, nn

from cases import over
from loss.toys import U, Wave, loss_of
from oboro.base.errors import UserError
from oboro.condition import Condition, Label
from oboro.denoiser import Denoiser
from oboro.denoiser.exact import GaussianDenoiser
from oboro.loss import Hybrid, penalty, weighting
from oboro.loss.hybrid import discretised_log_likelihood, gaussian_kl
from oboro.parameterization import Eps, V
from oboro.sampler import nodes, posteriors
from oboro.sampler.grid import Uniform
from oboro.schedule import DDPM, VP, Linear

pytestmark = pytest.mark.usefixtures("global_generator_unread")


def hybrid(steps=20, vlb_weight=1.0, weight=None) -> Hybrid:
    return Hybrid(weight or weighting.Uniform(), penalty.Squared(), steps, vlb_weight)


def bound_of(denoiser, x, u, eps, steps=20):
    """L_vlb alone, (B,)."""
    with_vlb, without = (hybrid(steps, w).at_quantile(denoiser, x, Condition(), u, eps) for w in (1.0, 0.0))
    return with_vlb - without


class Answer:
    """A denoiser that answers a given x̂0 and v, and keeps when it was asked."""

    def __init__(self, schedule, x0, v):
        self.schedule, self.parameterization, self.x0, self.v, self.times = schedule, V(), x0, v, []

    def with_variance(self, x_t, t, cond):
        self.times.append(t)
        return self.x0, self.v


class Exact:
    """The exact denoiser of a Gaussian, with its v or a given one."""

    def __init__(self, schedule, mean, std, v=None):
        self.exact = GaussianDenoiser(mean, std, schedule)
        self.schedule, self.parameterization, self.v = schedule, V(), v

    def with_variance(self, x_t, t, cond):
        x0, v = self.exact.with_variance(x_t, t, cond)
        return x0, v if self.v is None else self.v.expand_as(x_t)


class Double(nn.Module):
    """A network without weights of twice as many channels as its input."""

    reads: ClassVar = Wave.reads

    def forward(self, x, c_noise, cond):
        wave = Wave()(x, c_noise, cond)
        return torch.cat([wave, torch.cos(2 * wave)], 1)


# --- the two kinds of term


def test_the_divergence_of_gaussians_is_that_of_torch(normal):
    m1, m2, l1, l2 = normal(4, 50)
    ours = gaussian_kl(m1 - m2, l1, l2)
    p, q = (distributions.Normal(m, (log_var / 2).exp()) for m, log_var in ((m1, l1), (m2, l2)))
    torch.testing.assert_close(ours, distributions.kl_divergence(p, q), rtol=1e-10, atol=1e-12)


LEVELS_OF_8_BITS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


@over(mean=[-1.3, -1.0, 0.001, 0.4, 1.0], std=[0.002, 0.05, 0.7])
def test_bins_of_8_bits_have_their_mass_and_add_up_to_1(mean, std):
    x, p = LEVELS_OF_8_BITS, distributions.Normal(*torch.tensor([mean, std], dtype=torch.float64))
    ours = discretised_log_likelihood(x - mean, x, torch.tensor(2 * log(std), dtype=torch.float64))
    assert float(ours.exp().sum()) == pytest.approx(1, abs=1e-12)
    inside = p.cdf(x + 1 / 255) - p.cdf(x - 1 / 255)
    torch.testing.assert_close(ours.exp()[1:-1], inside[1:-1], rtol=1e-6, atol=1e-14)
    assert float(ours[0].exp()) == pytest.approx(float(p.cdf(x[0] + 1 / 255)), rel=1e-9, abs=1e-14)
    assert float(ours[-1].exp()) == pytest.approx(float(1 - p.cdf(x[-1] - 1 / 255)), rel=1e-6, abs=1e-14)


@over(dtype=[torch.float64, torch.float32], sign=[-1, 1])
def test_a_bin_far_from_the_mean_keeps_its_digits(sign, dtype):
    """60 standard deviations off, where the mass itself is 0 in floating point: by quadrature of the logarithm."""
    x, std, shift = float(LEVELS_OF_8_BITS[100]), 0.01, sign * 0.6
    points = shift + (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000 * 2 / 255 - 1 / 255
    logs = -((points / std) ** 2) / 2 - log(std * sqrt(2 * pi)) + log(2 / 255 / 4000)
    shift, x, log_var = torch.tensor([[shift], [x], [2 * log(std)]], dtype=dtype)
    ours = discretised_log_likelihood(shift, x, log_var)
    assert float(ours) == pytest.approx(float(logs.logsumexp(0)), rel=1e-5)


# --- the terms of a step


def test_l_vlb_is_that_of_the_papers_in_betas(normal):
    """The table of DDPM: eq. 6, 7 and 13 of arXiv:2006.11239 with eq. 15 of arXiv:2102.09672, in bits a dimension."""
    steps, schedule = 12, DDPM(0.01, 0.3, 12)
    betas = torch.linspace(0.01, 0.3, steps, dtype=torch.float64)
    abar = torch.cumprod(1 - betas, 0)
    x, eps, x0, v = LEVELS_OF_8_BITS[(normal(steps, 5) * 50 + 128).long().clamp(0, 255)], *normal(3, steps, 5)
    u = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    ours = bound_of(Answer(schedule, x0, v), x, u, eps, steps)
    for k in range(steps):
        x_t = abar[k].sqrt() * x[k] + (1 - abar[k]).sqrt() * eps[k]
        if k:
            tilde = betas[k] * (1 - abar[k - 1]) / (1 - abar[k])

            def mean(clean, k=k, x_t=x_t):
                of_x0 = abar[k - 1].sqrt() * betas[k] / (1 - abar[k])
                return of_x0 * clean + (1 - betas[k]).sqrt() * (1 - abar[k - 1]) / (1 - abar[k]) * x_t

            std = (v[k] * betas[k].log() + (1 - v[k]) * tilde.log()).div(2).exp()
            p, q = distributions.Normal(mean(x0[k]), std), distributions.Normal(mean(x[k]), tilde.sqrt())
            nats = distributions.kl_divergence(q, p)
        else:
            clipped = betas[1] * (1 - abar[0]) / (1 - abar[1])
            std = (v[0] * betas[0].log() + (1 - v[0]) * clipped.log()).div(2).exp()
            nats = -discretised_log_likelihood(x[0] - x0[0], x[0], 2 * std.log())
        assert float(ours[k]) == pytest.approx(steps * float(nats.mean()) / log(2), rel=1e-6)


def test_the_steps_are_those_of_a_sampler(schedule):
    """Each of them once for midpoints of the quantiles; the last is only moved where no noise is left at all."""
    steps = 10
    u = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    x = torch.zeros(steps, 1, dtype=torch.float64)
    denoiser = Answer(schedule, x, x)
    hybrid(steps).at_quantile(denoiser, x, Condition(), u, x)
    visited = [node.t for node in Uniform()(schedule, steps)][:-1]
    assert denoiser.times[0].tolist() == pytest.approx(visited[::-1], abs=2e-5)


def test_both_terms_come_from_one_evaluation(normal):
    calls = []

    class Counted(Double):
        def forward(self, x, c_noise, cond):
            calls.append(len(x))
            return super().forward(x, c_noise, cond)

    hybrid()(Denoiser(Counted(), VP(), V()), normal(5, 3), Condition(), torch.Generator())
    assert calls == [5]


def test_l_simple_is_the_denoising_loss_at_the_same_noise(schedule, normal):
    x, eps, cond = normal(5, 3), normal(5, 3), Condition.of(label=Label(normal(5)))
    denoiser = Denoiser(Double(), schedule, V())
    t = torch.tensor([node.t for node in Uniform()(schedule, 20)], dtype=torch.float64)[19 - (U * 20).long()]
    simple = loss_of(weight=weighting.MinSNR()).at_quantile(denoiser, x, cond, t, eps)
    ours = hybrid(20, 0.0, weighting.MinSNR()).at_quantile(denoiser, x, cond, U, eps)
    torch.testing.assert_close(ours, simple, rtol=1e-6, atol=1e-9)


def test_training_is_validation_at_the_drawn_noise(normal):
    denoiser, x, g = Denoiser(Double(), VP(), V()), normal(6, 3), torch.Generator().manual_seed(1)
    drawn = hybrid()(denoiser, x, Condition(), g)
    g.manual_seed(1)
    u, eps = torch.rand(6, generator=g).double(), torch.randn(6, 3, generator=g).double()
    assert torch.equal(drawn, hybrid().at_quantile(denoiser, x, Condition(), u, eps))


def test_the_bound_teaches_the_variance_alone(normal):
    x, eps, x0, v = normal(4, 5, 3)
    answer = Answer(VP(), x0.requires_grad_(), v.requires_grad_())
    simple, both = (hybrid(20, w).at_quantile(answer, x, Condition(), U, eps).sum() for w in (0.0, 1.0))
    assert torch.equal(*(torch.autograd.grad(loss, x0, retain_graph=True)[0] for loss in (simple, both)))
    assert torch.autograd.grad(both, v)[0].ne(0).all()
    assert torch.autograd.grad(simple, v)[0].eq(0).all()


def test_a_learned_weight_learns(normal):
    """``LearnedLogVariance`` acts on L_simple: its u minimises L / e^u + u, of slope 1 - L at u = 0."""
    weight = weighting.LearnedLogVariance(weighting.Uniform(), features=1)
    denoiser, x = Denoiser(Double(), VP(), V()), normal(1, 3)

    def slope(vlb_weight):
        loss = hybrid(20, vlb_weight, weight)(denoiser, x, Condition(), torch.Generator().manual_seed(1))
        return float(torch.autograd.grad(loss.sum(), weight.head)[0])

    assert slope(1.0) == slope(0.0) != 0


@over(far=[1e3, 1e6])
def test_gradients_stay_finite_in_single_precision_far_from_the_data(far, schedule):
    """What eps makes of a first guess at much noise: x̂0 a thousand times too large."""
    u, x = torch.linspace(0, 1, 50), torch.linspace(-1, 1, 100).view(50, 2)
    v = torch.full((50, 2), 0.5, requires_grad=True)
    size = torch.where(u < 1 / 50, 1.0, far)[:, None]
    hybrid(50).at_quantile(Answer(schedule, size * (x + 0.1), v), x, Condition(), u, x).sum().backward()
    assert v.grad.isfinite().all()


# --- the bound


def total(denoiser, steps=40):
    """L_vlb and the KL at t = 1, and the entropy, in bits a dimension, of N(0.1, 0.4²) rounded to 8 bits: the
    expectation over all 256 values, and over Gauss-Hermite nodes of eps."""
    middle = (LEVELS_OF_8_BITS[1:] + LEVELS_OF_8_BITS[:-1]) / 2
    below = torch.special.ndtr((middle - 0.1) / 0.4)
    mass = torch.cat([below[:1], below.diff(), 1 - below[-1:]])
    points, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(9))
    x, eps = (column[:, None].repeat(steps, 1) for column in torch.cartesian_prod(LEVELS_OF_8_BITS, points).T)
    share = torch.cartesian_prod(mass, weights / weights.sum()).prod(1)
    u = ((torch.arange(steps).double() + 0.5) / steps).repeat_interleave(len(share))
    bits = float((bound_of(denoiser, x, u, eps, steps).view(steps, -1) @ share).mean())
    _, alpha, sigma = nodes(denoiser.schedule, [1.0])[0]
    prior = float(mass @ (alpha * LEVELS_OF_8_BITS / sigma) ** 2) / 2 / log(2)
    return bits + prior, float(-(mass * mass.log2()).sum())


@pytest.mark.parametrize("schedule", [VP(), Linear()], ids=["vp", "linear"])
def test_the_sum_over_steps_is_a_tight_bound_on_the_entropy_of_the_data(schedule):
    """With the exact x̂0 and v of (nearly) these data; x̂0 alone, with the variance at either end, stays above."""
    exact, entropy = total(Exact(schedule, 0.1, 0.4))
    assert entropy < exact < entropy + 0.04
    ends = (total(Exact(schedule, 0.1, 0.4, torch.tensor(v, dtype=torch.float64)))[0] for v in (0.0, 1.0))
    assert all(worse > exact + 0.04 for worse in ends)


# --- the optimum


@pytest.mark.parametrize("std", [0.3, 1.0, 1.4])
def test_the_bound_is_least_at_the_exact_reverse_variance(std, schedule):
    """Data N(0.2, std²): c_x² Var[x | x_t] + e^low, at every step but the one into data. L_k is quadratic in x and eps,
    so that three Gauss-Hermite nodes of each are its expectation."""
    steps = 8
    points, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(3))
    z, weight = torch.cartesian_prod(points, points), torch.cartesian_prod(weights, weights).prod(1)
    k = torch.arange(1, steps)  # from the data
    x, eps = 0.2 + std * z[:, :1].repeat(len(k), 1), z[:, 1:].repeat(len(k), 1)
    u = ((k + 0.5) / steps).double().repeat_interleave(9)
    grid = Uniform()(schedule, steps)
    table = posteriors(grid)
    low, width = (column[steps - 1 - k][:, None] for column in (table.low, table.high - table.low))
    change = (0.5 * width).requires_grad_()  # of the logarithm from its lower end
    optimizer = torch.optim.LBFGS([change], 1, 100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        denoiser = Exact(schedule, 0.2, std, (change / width).repeat_interleave(9, 0))
        loss = (weight.repeat(len(k))[:, None] * bound_of(denoiser, x, u, eps, steps)[:, None]).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    alpha, sigma = torch.tensor(grid, dtype=torch.float64)[steps - 1 - k, 1:].T[..., None]
    posterior = (std * sigma) ** 2 / ((alpha * std) ** 2 + sigma**2)
    wanted = low.exp() + table.c_x[steps - 1 - k][:, None] ** 2 * posterior
    torch.testing.assert_close((low + change.detach()).exp(), wanted, rtol=1e-3, atol=0)


class Affine(nn.Module):
    """F affine in x, and v, both with coefficients that are polynomials of the noise level."""

    def __init__(self, degree=8):
        super().__init__()
        self.degree = degree
        self.table = nn.Parameter(torch.zeros(degree, 3, 4, dtype=torch.float64))

    def forward(self, x, c_noise, cond):
        angle = torch.atan(torch.exp(4 * c_noise)) * (4 / pi) - 1
        chebyshev = torch.cos(torch.arange(self.degree) * torch.acos(angle.clamp(-1, 1))[:, None])
        coefficients = torch.einsum("bd,dio->bio", chebyshev, self.table)
        mean = torch.einsum("bi,bio->bo", torch.cat([x, torch.ones_like(x[:, :1])], 1), coefficients[..., :2])
        return torch.cat([mean, coefficients[:, 2, 2:]], 1)


def test_training_finds_mean_and_variance_of_two_dimensions():
    """Data N(0, diag(1.2², 0.2²)): from v = 1/2 everywhere to the reverse variance of either dimension."""
    std, steps, schedule, g = torch.tensor([1.2, 0.2]).double(), 50, VP(), torch.Generator().manual_seed(0)
    denoiser, loss = Denoiser(Affine(), schedule, Eps()), hybrid(steps, 0.1)
    optimizer = torch.optim.Adam(denoiser.parameters(), 0.02)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)

    def error():
        """Of log sigma_theta², the largest among the steps in which the range is wide."""
        grid = Uniform()(schedule, steps)
        table, x = posteriors(grid), torch.zeros(1, 2, dtype=torch.float64)
        off = []
        for step in range(25, steps - 1):
            _, alpha, sigma = grid[step]
            at = table.at(torch.tensor([step]), x)
            posterior = (std * sigma) ** 2 / ((alpha * std) ** 2 + sigma**2)
            _, v = denoiser.with_variance(x, torch.tensor([grid[step].t], dtype=torch.float64), Condition())
            off.append((at.log_variance(v) - torch.log(at.low.exp() + at.c_x**2 * posterior)).abs().max())
        return float(torch.stack(off).max().detach())

    before = error()
    for _ in range(600):
        x = std * torch.randn(256, 2, generator=g, dtype=torch.float64)
        optimizer.zero_grad()
        loss(denoiser, x, Condition(), g).mean().backward()
        optimizer.step()
        decay.step()
    assert error() < 0.2 * before


# --- mistakes


def test_no_steps_are_a_mistake():
    with pytest.raises(UserError, match=r"bound of 0 steps.*set loss\.steps to 1 or more"):
        hybrid(0)


def test_a_network_without_a_variance_is_named_with_the_remedy(normal):
    with pytest.raises(UserError, match=r"Wave predicts no variance.*model\.learned_variance=true and loss=hybrid, or"):
        hybrid()(Denoiser(Wave(), VP(), V()), normal(4, 3), Condition(), torch.Generator())


def test_one_step_is_the_likelihood_of_the_data_given_noise(normal):
    x, x0 = LEVELS_OF_8_BITS[:4, None], normal(4, 1)
    v = torch.zeros_like(x0)
    ours = bound_of(Answer(Linear(), x0, v), x, torch.full((4,), 0.3, dtype=torch.float64), v, 1)
    nats = discretised_log_likelihood(x - x0, x, torch.zeros_like(x))  # sigma_1 = 1 and alpha_1 = 0
    torch.testing.assert_close(ours, -nats[:, 0] * log2(2.718281828459045), rtol=1e-6, atol=1e-9)


def test_a_second_schedule_and_other_steps_have_their_own_table(normal):
    """The table of the steps is kept from one batch to the next, for its own schedule alone."""
    x, eps, u = normal(4, 3), normal(4, 3), torch.tensor([0.05, 0.3, 0.7, 0.95], dtype=torch.float64)
    loss = hybrid(20)

    def values(of):
        return [of.at_quantile(Exact(schedule, 0.3, 0.7), x, Condition(), u, eps) for schedule in (Linear(), VP())]

    first = values(loss)
    for again in (values(loss), values(hybrid(20))):
        assert all(map(torch.equal, first, again))
    loss.steps = 7
    assert all(map(torch.equal, values(loss), values(hybrid(7))))
    assert not torch.equal(values(loss)[0], first[0])
