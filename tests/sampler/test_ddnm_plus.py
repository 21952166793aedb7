"""DDNM+ against its formula along each singular vector, and against the posterior of Gaussian data."""

import pytest
import torch

from oboro.base.errors import UserError
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition
from oboro.denoiser.exact import GaussianDenoiser
from oboro.measurement import Blur, Downsample, Mask, Measured, Measurement
from oboro.sampler import DDNMPlus
from oboro.schedule import VP

pytestmark = pytest.mark.usefixtures("global_generator_unread")

SHAPE = (1, 4, 4)
MASK = torch.tensor([True, False, True, True] * 8).view(2, 1, 4, 4)
KINDS = {"mask": Mask(MASK), "downsample": Downsample(2), "blur": Blur(0.7)}


class Fixed:
    """A denoiser that has made up its mind."""

    schedule = VP()

    def __init__(self, x0):
        self.x0 = x0

    def __call__(self, x_t, t, cond):
        return self.x0

    def towards(self, alpha, sigma):
        return self


def condition(operator, y, noise):
    return Condition(sampling={"measured": Measured(y, torch.as_tensor(noise).double(), operator)})


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_formula_along_each_singular_vector(kind, normal):
    """With one sample of much noise, one of little; start and end inside of the grid."""
    operator, x0, x, eta = KINDS[kind], normal(2, *SHAPE), normal(2, *SHAPE), 0.6
    sampler, sigma_y = DDNMPlus(5, eta), torch.tensor([2.0, 0.05]).double()
    y = operator.measured(normal(*operator(x0).shape))
    t, s = sampler.nodes(Fixed.schedule, 0.8, 0.6)
    z = SampleNoise(0, [0, 1])(x)
    out = sampler(Fixed(x0), x, condition(operator, y, sigma_y), SampleNoise(0, [0, 1]), 0.8, 0.6).flatten(1)
    eps = (eta * z + (1 - eta**2) ** 0.5 * (x - t.alpha * x0) / t.sigma).flatten(1)
    for i in (0, 1):
        units = torch.eye(16, dtype=torch.float64).view(16, *SHAPE)
        one = operator.map(lambda m, i=i: m[i : i + 1])
        matrix = one(units).flatten(1).T
        u, a, vh = torch.linalg.svd(matrix, full_matrices=True)
        expected = s.alpha * x0[i].flatten() + s.sigma * eps[i]
        for k in range(len(a)):
            if a[k] > 1e-8:
                kept = min(1.0, float(s.sigma * a[k] / (s.alpha * sigma_y[i])))
                gamma = max(0.0, float(s.sigma**2 - (s.alpha * kept * sigma_y[i] / a[k]) ** 2)) ** 0.5
                moved = u[:, k] @ (y[i].flatten() - matrix @ x0[i].flatten()) / a[k]
                expected = expected + vh[k] * (s.alpha * kept * moved + (gamma - s.sigma) * (vh[k] @ eps[i]))
        torch.testing.assert_close(out[i], expected, rtol=1e-8, atol=1e-8)


def test_without_noise_what_was_measured_is_kept(normal):
    for operator in KINDS.values():
        y = operator(normal(2, *SHAPE))
        denoiser, x = GaussianDenoiser(0.3, 0.7, VP()), normal(2, *SHAPE)
        out = DDNMPlus(6)(denoiser, x, condition(operator, y, [0.0, 0.0]), SampleNoise(0, [0, 1]))
        torch.testing.assert_close(operator(out), y)


def test_samples_of_a_noisy_measurement_do_not_spread():
    """y = 1 of a number N(0.3, 0.7²) with noise 0.3 is N(0.89, 0.28²); DDNM+ takes the noise of y for its own and has
    0.95 alone."""
    n = 100
    noise, given = SampleNoise(0, range(n)), Mask(torch.ones(1, 1, 1, 1, dtype=torch.bool))
    y, level = torch.ones(n, 1, 1, 1).double(), torch.full((n,), 0.3)
    x = DDNMPlus(100)(GaussianDenoiser(0.3, 0.7, VP()), noise(y), condition(given, y, level), noise)
    assert x.std() < 1e-3 and abs(float(x.mean()) - 0.95) < 0.02


def test_operators_without_singular_values_are_refused(normal):
    class Own(Measurement):
        def __call__(self, x):
            return x

        def adjoint(self, y):
            return y

    x = normal(2, *SHAPE)
    with pytest.raises(UserError, match="Own has none"):
        DDNMPlus(3)(Fixed(x), x, condition(Own(), x, [0.0, 0.0]), SampleNoise(0, [0, 1]))
