"""The likelihood against closed forms: Gaussians on every schedule, a mixture, 8-bit images."""

from itertools import pairwise
from math import erf, log, pi, sqrt
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from oboro.base.errors import UserError
from oboro.base.seeding import generator
from oboro.condition import Condition, Label
from oboro.denoiser import Denoiser
from oboro.denoiser.exact import GaussianDenoiser
from oboro.evaluate.likelihood import bits_per_dim, dequantise, log_likelihood, log_snr_grid, rademacher
from oboro.parameterization import V
from oboro.schedule import Cosine, Karras, Linear, expand_as

MEAN, STD = 0.3, 0.5


def basis(x):
    """The probes sqrt(D) e_i, of which the trace is exact."""
    d = x[0].numel()
    return (sqrt(d) * torch.eye(d, dtype=x.dtype)).view(d, 1, *x.shape[1:]).expand(d, *x.shape)


def ones(x):
    """A probe that is enough where the Jacobian is diagonal."""
    return torch.ones(1, *x.shape, dtype=x.dtype)


def log_normal(x, mean, variance):
    """Sum over the dimensions of log N(x; mean, variance)."""
    return -((x - mean) ** 2 / variance + torch.log(2 * pi * torch.as_tensor(variance).to(x))).flatten(1).sum(1) / 2


class CorrelatedGaussian:
    """The exact denoiser of N(mean, C) on flat x: D = mean + alpha C (alpha² C + sigma²)^{-1} (x_t - alpha mean)."""

    def __init__(self, mean, covariance, schedule):
        self.mean, self.schedule = mean, schedule
        self.values, self.vectors = torch.linalg.eigh(covariance)

    def __call__(self, x_t, t, cond):
        alpha, sigma = self.schedule(expand_as(t, x_t))
        gain = alpha * self.values / (alpha**2 * self.values + sigma**2)
        return self.mean + ((x_t - alpha * self.mean) @ self.vectors * gain) @ self.vectors.T


class Mixture:
    """The exact denoiser of sum_k weight_k N(mean_k, std²) on flat x; means (K, D)."""

    def __init__(self, weights, means, std, schedule):
        self.weights, self.means, self.std, self.schedule = weights, means, std, schedule

    def log_components(self, x, alpha, sigma):
        """log weight_k N(x; alpha mean_k, alpha² std² + sigma²), (B, K)."""
        variance = (alpha * self.std) ** 2 + sigma**2
        squares = (x[:, None] - alpha * self.means).square().sum(2)
        return self.weights.log() - squares / (2 * variance) - x.shape[1] / 2 * torch.log(2 * pi * variance)

    def __call__(self, x_t, t, cond):
        alpha, sigma = self.schedule(t[0])
        responsible = self.log_components(x_t, alpha, sigma).softmax(1)
        mean = responsible @ self.means
        gain = alpha * self.std**2 / ((alpha * self.std) ** 2 + sigma**2)
        return mean + gain * (x_t - alpha * mean)

    def log_density(self, x, sigma):
        return self.log_components(x, torch.ones(()), torch.as_tensor(sigma)).logsumexp(1)


class Uniform:
    """The exact denoiser of pixels uniform over all 256 bins: the mean of a normal cut off at the ends."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, x_t, t, cond):
        alpha, sigma = self.schedule(expand_as(t, x_t))
        m, s, end = x_t / alpha, sigma / alpha, 256 / 255
        a, b = (-end - m) / s, (end - m) / s
        mass = (torch.erf(b / sqrt(2)) - torch.erf(a / sqrt(2))) / 2
        return m + s * (torch.exp(-(a**2) / 2) - torch.exp(-(b**2) / 2)) / (sqrt(2 * pi) * mass)


def ends(schedule):
    """(cos, sin) of the angle at data and at noise."""
    grid, _ = log_snr_grid(schedule, 1)
    return grid[0].cos, grid[0].sin, grid[-1].cos, grid[-1].sin


def test_the_grid_spans_the_schedule_evenly_in_log_snr(schedule):
    """Up to its own ends, or up to 15."""
    grid, h = log_snr_grid(schedule, 5)
    found = torch.tensor([2 * log(p.cos / p.sin) for p in grid], dtype=torch.float64)
    own = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)).clamp(-15, 15)
    t = torch.tensor([p.t for p in grid], dtype=torch.float64)
    # The last digit of t, which is next to 1 where a schedule takes its time to lose all signal (laplace).
    digit = float((schedule.log_snr(t) - schedule.log_snr(t.nextafter(torch.zeros_like(t)))).abs()[1:].max())
    torch.testing.assert_close(found[[0, -1]], own, rtol=1e-9, atol=1e-9 + digit)
    torch.testing.assert_close(
        found.diff(), torch.full((10,), h / 2, dtype=torch.float64), rtol=1e-9, atol=1e-9 + digit
    )
    alpha, sigma = schedule(t)
    torch.testing.assert_close(
        torch.stack([alpha, sigma], 1), torch.tensor([[p.scale * p.cos, p.scale * p.sin] for p in grid]).double()
    )


def test_a_gaussian_has_the_likelihood_of_its_own_marginal(schedule, normal):
    """The ODE maps it by a factor R, and what lands at the noise end is measured by N(0, sin²)."""
    x = MEAN + STD * normal(3, 1, 2, 3)
    cos, sin, cos_end, sin_end = ends(schedule)
    variance, variance_end = (c**2 * STD**2 + s**2 for c, s in ((cos, sin), (cos_end, sin_end)))
    ratio = sqrt(variance_end / variance)
    landed = cos_end * MEAN + ratio * cos * (x - MEAN)
    expected = log_normal(landed, 0.0, sin_end**2) + 6 * log(ratio * cos)
    denoiser = GaussianDenoiser(MEAN, STD, schedule)
    found = log_likelihood(denoiser, x, Condition(), steps=128, probes=ones(x))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_a_gaussian_has_its_closed_form(schedule, normal):
    """N(mean, std² + 1/SNR), up to the signal that the prior neglects at the noise end."""
    x = MEAN + STD * normal(3, 1, 2, 3)
    cos, sin, cos_end, _ = ends(schedule)
    expected = log_normal(x, MEAN, STD**2 + (sin / cos) ** 2)
    found = log_likelihood(GaussianDenoiser(MEAN, STD, schedule), x, Condition(), steps=32, probes=ones(x))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 + 6 * cos_end)


@pytest.mark.parametrize("std", [0.1, 0.5, 2.0])
def test_of_two_scales_the_right_one_is_more_probable(std, normal):
    """The mean log-likelihood of data is minus the entropy under the right model, and lower by KL under a wrong one."""
    x = STD * normal(400, 4)
    denoiser = GaussianDenoiser(0.0, std, Cosine())
    found = log_likelihood(denoiser, x, Condition(), steps=64, probes=ones(x)).mean() / 4
    second_moment = x.square().mean()
    assert found.item() == pytest.approx(-(log(2 * pi * std**2) + second_moment / std**2).item() / 2, abs=2e-3)


@pytest.fixture
def mixture():
    means = torch.tensor([[0.6, -0.4], [-0.5, 0.5]], dtype=torch.float64)
    return Mixture(torch.tensor([0.3, 0.7], dtype=torch.float64), means, 0.2, Cosine())


def test_a_mixture_has_its_density_at_its_centres_between_them_and_outside(mixture):
    x = torch.tensor([[0.6, -0.4], [-0.5, 0.5], [0.05, 0.05], [0.3, 0.9], [-0.9, 0.1]], dtype=torch.float64)
    cos, sin, *_ = ends(mixture.schedule)
    expected = mixture.log_density(x, sin / cos)
    found = log_likelihood(mixture, x, Condition(), steps=200, probes=basis(x))
    assert expected.max() - expected.min() > 5
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)  # the prior neglects 5.5e-4 of the signal


def test_its_error_is_of_fourth_order(mixture):
    mixture.std = 0.3
    x = torch.tensor([[0.6, -0.4], [0.1, 0.2], [0.3, 0.9]], dtype=torch.float64)
    exact = log_likelihood(mixture, x, Condition(), steps=400, probes=basis(x))
    steps = np.array([56, 80, 112])
    errors = [(log_likelihood(mixture, x, Condition(), steps=int(n), probes=basis(x)) - exact).norm() for n in steps]
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order == pytest.approx(4, abs=0.4)


def test_a_density_integrates_to_one(mixture):
    """exp(log p) over the plane, by the rectangle rule."""
    side = torch.linspace(-2, 2, 41, dtype=torch.float64)
    x = torch.cartesian_prod(side, side)
    density = log_likelihood(mixture, x, Condition(), steps=40, probes=basis(x)).exp()
    assert density.sum().item() * 0.1**2 == pytest.approx(1, abs=2e-3)


def correlated(normal, schedule):
    root = normal(4, 4)
    return CorrelatedGaussian(normal(4), root @ root.T / 4 + 0.05 * torch.eye(4, dtype=torch.float64), schedule)


def test_a_correlated_gaussian_has_its_closed_form(normal):
    denoiser = correlated(normal, Linear())
    covariance = denoiser.vectors * (denoiser.values + 3.06e-7) @ denoiser.vectors.T
    x = denoiser.mean + normal(5, 4)
    expected = torch.distributions.MultivariateNormal(denoiser.mean, covariance).log_prob(x)
    found = log_likelihood(denoiser, x, Condition(), steps=64, probes=basis(x))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)


def test_a_probe_adds_the_off_diagonal_part_of_the_flow(normal):
    """The Jacobian is the same for all z, so a probe v of signs gives log p + vᵀ M v - tr M.

    M = log sqrt(S_noise / S_data) with S = cos² C + sin², the logarithm of the linear map from data to noise.
    """
    denoiser = correlated(normal, Karras())
    cos, sin, cos_end, sin_end = ends(denoiser.schedule)
    stretch = (cos_end**2 * denoiser.values + sin_end**2) / (cos**2 * denoiser.values + sin**2)
    m = denoiser.vectors * stretch.log() / 2 @ denoiser.vectors.T
    v = normal(3, 5, 4).sign()
    x = normal(5, 4)
    exact = log_likelihood(denoiser, x, Condition(), steps=64, probes=basis(x))
    expected = exact + torch.einsum("pbi,ij,pbj->b", v, m, v) / 3 - m.trace()
    assert (expected - exact).abs().max() > 0.1
    found = log_likelihood(denoiser, x, Condition(), steps=64, probes=v)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_rademacher_probes_are_unbiased_and_spread_as_the_formula_says(normal):
    """Variance 2 sum_{i≠j} S_ij² of vᵀ J v, here for one drawn J that is not symmetric."""
    j, n = normal(4, 4), 20_000
    v = rademacher(torch.empty(n, 4, dtype=torch.float64), 1, 0, range(n))[0]
    assert set(v.unique().tolist()) == {-1.0, 1.0}
    values = torch.einsum("bi,ij,bj->b", v, j, v)
    s = (j + j.T) / 2
    variance = 2 * (s.square().sum() - s.diagonal().square().sum())
    assert abs(values.mean() - j.trace()) < 4 * (variance / n) ** 0.5
    assert values.var().item() == pytest.approx(variance.item(), rel=0.05)
    assert torch.linalg.norm(v.T @ v / n - torch.eye(4, dtype=torch.float64)) < 4 * (12 / n) ** 0.5


def test_several_probes_are_averaged(mixture, normal):
    x, v = normal(2, 2), normal(3, 2, 2)
    together = log_likelihood(mixture, x, Condition(), steps=10, probes=v)
    alone = torch.stack([log_likelihood(mixture, x, Condition(), steps=10, probes=v[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone.mean(0))
    assert (alone.std(0) > 1e-3).all()


def network(dtype=torch.float64):
    """A small denoiser of vectors with two classes and random weights."""

    class Network(nn.Module):
        reads: ClassVar = {"label": Label}

        def __init__(self):
            super().__init__()
            self.inside, self.out, self.label = nn.Linear(5, 16), nn.Linear(16, 4), nn.Embedding(2, 16)

        def forward(self, x, c_noise, cond):
            hidden = self.inside(torch.cat([x, c_noise[:, None]], 1)) + self.label(cond["label"].index)
            return self.out(torch.tanh(hidden))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Denoiser(Network().to(dtype), Linear(), V()).eval()


COND = Condition.of(label=Label(torch.tensor([0, 1, 0])))


def test_a_network_has_the_density_of_its_own_flow(normal):
    """Change of variables with the Jacobian of the whole solved map, by differences of the end point in each direction.

    The trajectory is solved here by Heun's method in t, on the plain ODE of the linear schedule, dx/dt = (x - x̂0) / t.
    """
    denoiser, x = network(), normal(3, 4)
    times = torch.sigmoid(-torch.linspace(15, -15, 601, dtype=torch.float64) / 2).tolist()
    cond = COND.rows(torch.arange(3).repeat(8))

    def slope(x, t):
        return (x - denoiser(x, torch.full((24,), t, dtype=x.dtype), cond)) / t

    def noise(x):
        for t, s in pairwise(times):
            k = slope(x, t)
            x = x + (s - t) / 2 * (k + slope(x + (s - t) * k, s))
        return x

    with torch.no_grad():
        shifts = 1e-4 * torch.cat([torch.eye(4), -torch.eye(4)]).double()
        landed = noise(((1 - times[0]) * x + shifts[:, None]).flatten(0, 1)).view(8, 3, 4)
        columns = (landed[:4] - landed[4:]) / 2e-4
        log_det = torch.linalg.slogdet(columns.movedim(0, 2)).logabsdet
        expected = log_normal(landed.mean(0), 0.0, times[-1] ** 2) + log_det + 4 * log(1 - times[0])
        found = log_likelihood(denoiser, x, COND, steps=64, probes=basis(x))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    other = log_likelihood(denoiser, x, Condition.of(label=Label(torch.tensor([1, 0, 1]))), steps=20, probes=basis(x))
    assert (other - expected).abs().min() > 1e-3


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("inside", [torch.no_grad, torch.enable_grad])
def test_weights_with_or_without_gradients_give_the_same_and_get_none(normal, frozen, inside):
    denoiser, x = network(), normal(3, 4)
    expected = log_likelihood(denoiser, x, COND, steps=3, probes=basis(x))
    denoiser.requires_grad_(not frozen)
    with inside():
        found = log_likelihood(denoiser, x, COND, steps=3, probes=basis(x))
    assert torch.equal(found, expected) and not found.requires_grad
    assert all(p.grad is None for p in denoiser.parameters())


def test_single_precision_is_enough(normal):
    x = normal(3, 4)
    exact = log_likelihood(network(), x, COND, steps=32, probes=basis(x))
    found = log_likelihood(network(torch.float32), x.float(), COND, steps=32, probes=basis(x.float()))
    torch.testing.assert_close(found, exact, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("steps", "probes"), [(0, 1), (3, 0)])
def test_nothing_to_integrate_is_refused(steps, probes):
    x = torch.zeros(2, 3)
    with pytest.raises(UserError, match="set both to 1 or more"):
        log_likelihood(
            GaussianDenoiser(0.0, 1.0, Linear()), x, Condition(), steps=steps, probes=torch.ones(probes, 2, 3)
        )


# --- 8-bit images


def grey(rng, *shape):
    return torch.randint(256, shape, generator=rng).to(torch.uint8)


def test_dequantised_pixels_fill_their_bins_evenly():
    """Rounding gives the pixel back, bins touch, and the place in the bin is uniform."""
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(40, 1, 16, 16)
    levels = dequantise(images, 0, range(40)).double() * 127.5 + 127.5
    place = levels - images.double()
    assert (levels.round() - images.double()).abs().max() == 0
    counts = torch.histc(place, 10, -0.5, 0.5)
    assert ((counts - 1024).abs() < 5 * 1024**0.5).all() and counts.sum() == 10240


def test_uniform_noise_costs_eight_bits(rng):
    """What no code can beat, and the exact model of it reaches."""
    images = grey(rng, 16, 1, 8, 8)
    found = bits_per_dim(Uniform(Karras(sigma_max=20.0)), images, Condition(), seed=0, ids=range(16), steps=100)
    assert found.mean().item() == pytest.approx(8, abs=5e-3)


def test_a_level_costs_minus_the_logarithm_of_its_mass():
    """All pixels of an image alike, under N(mean, std²): -log2 of the normal's mass in the bin."""
    for level in (0, 100, 166, 255):
        images = torch.full((4, 1, 16, 16), level, dtype=torch.uint8)
        low, high = (((level + side) / 127.5 - 1 - MEAN) / (STD * sqrt(2)) for side in (-0.5, 0.5))
        expected = -np.log2((erf(high) - erf(low)) / 2)
        found = bits_per_dim(GaussianDenoiser(MEAN, STD, Cosine()), images, Condition(), seed=0, ids=range(4), steps=32)
        assert found.mean().item() == pytest.approx(expected, abs=2e-3)


@pytest.fixture
def correlated_images():
    """The exact denoiser of 2×2 images whose pixels go together."""
    root = torch.randn(4, 4, generator=generator(0, "root"))
    flat = CorrelatedGaussian(torch.zeros(4), root @ root.T + torch.eye(4), Linear())

    class Image:
        schedule = flat.schedule

        def __call__(self, x_t, t, cond):
            return flat(x_t.flatten(1), t, cond).view_as(x_t)

    return Image()


def test_an_image_costs_the_same_in_any_batch(rng, correlated_images):
    images, ids, settings = grey(rng, 4, 1, 2, 2), [7, 0, 12, 3], {"steps": 4, "probes": 2}
    together = bits_per_dim(correlated_images, images, Condition(), seed=3, ids=ids, **settings)
    for i in range(4):
        alone = bits_per_dim(correlated_images, images[i : i + 1], Condition(), seed=3, ids=ids[i : i + 1], **settings)
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-5, atol=1e-5)
    other = bits_per_dim(correlated_images, images, Condition(), seed=4, ids=ids, **settings)
    assert (other - together).abs().min() > 1e-3


def test_many_probes_come_near_to_the_exact_trace(rng, correlated_images):
    images, ids = grey(rng, 6, 1, 2, 2), range(6)
    x = dequantise(images, 0, ids)
    exact = np.log2(127.5) - log_likelihood(correlated_images, x, Condition(), steps=8, probes=basis(x)) / (4 * log(2))
    few, many = (
        (bits_per_dim(correlated_images, images, Condition(), seed=0, ids=ids, steps=8, probes=p) - exact)
        .square()
        .mean()
        ** 0.5
        for p in (1, 100)
    )
    assert few / many == pytest.approx(10, rel=0.6)


@pytest.mark.usefixtures("global_generator_unread")
def test_noise_and_probes_depend_on_seed_and_id_alone():
    like = torch.empty(3, 1, 2, 2)
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    for draw in (
        lambda seed, ids: rademacher(like, 8, seed, ids),
        lambda seed, ids: dequantise(images, seed, ids)[None],
    ):
        rows = draw(0, [4, 5, 6])
        assert torch.equal(rows[:, [2, 0, 1]], draw(0, [6, 4, 5]))
        assert not torch.equal(rows[:, 0], rows[:, 1])
        assert not torch.equal(rows, draw(1, [4, 5, 6]))
    probes = rademacher(like, 8, 0, [4, 5, 6])
    assert not torch.equal(probes[0], probes[1])
