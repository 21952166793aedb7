"""RePaint against the posterior of correlated Gaussian data, in closed form and without a draw."""

import pytest
import torch

from oboro.base.errors import UserError
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition
from oboro.denoiser.exact import GaussianDenoiser
from oboro.measurement import Downsample, Mask, Measured
from oboro.sampler import DDIM, RePaint
from oboro.schedule import VP, Linear
from sampler.toys import Counter

pytestmark = pytest.mark.usefixtures("global_generator_unread")

RHO, Y = 0.9, 0.8
COV = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)
MASK = torch.tensor([[[[True, False]]]])


class Correlated:
    """The exact denoiser of two numbers of mean 0 and covariance ``COV``."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, x_t, t, cond):
        alpha, sigma = (float(c[0]) for c in self.schedule(t))
        gain = alpha * COV @ torch.linalg.inv(alpha**2 * COV + sigma**2 * torch.eye(2, dtype=torch.float64))
        return x_t @ gain.T

    def towards(self, alpha, sigma):
        return self


class Impulses:
    """Noise that is 0 but for one number of one draw in each of the rows after the first."""

    def __init__(self):
        self.drawn = 1  # row 0 has none

    def __call__(self, like):
        out = torch.zeros_like(like)
        for k in range(2):
            if self.drawn < len(like):
                out[self.drawn, 0, 0, k] = 1
            self.drawn += 1
        return out


def condition(mask, y, noise=0.0):
    rows = len(y)
    return Condition(sampling={"measured": Measured(y, torch.full((rows,), noise).double(), Mask(mask))})


def moments(sampler, schedule):
    """Mean and variance of the number that is not known: samples are affine in x_T and in every draw."""

    def run(rows):
        noise = Impulses()
        x_T = schedule.prior(noise(torch.zeros(rows, 1, 1, 2, dtype=torch.float64)))
        y = torch.tensor([Y, 5.0], dtype=torch.float64).expand(rows, 1, 1, 2)
        out = sampler(Correlated(schedule), x_T, condition(MASK.expand(rows, 1, 1, 2), y), noise)
        assert (out[..., 0] == Y).all()
        return out[:, 0, 0, 1], noise.drawn

    _, rows = run(1)
    out, _ = run(rows)
    return float(out[0]), float((out[1:] - out[0]).square().sum())


def test_resampling_approaches_the_posterior_and_pasting_alone_does_not():
    """Of N(0.72, 0.19): pasting has 0.48 and 0.27, ten passes have 0.68 and 0.17, at 50 steps."""
    exact = torch.tensor([RHO * Y, 1 - RHO**2])
    once, thrice, ten_times = ((torch.tensor(moments(RePaint(50, 5, k), VP())) - exact).abs() for k in (1, 3, 10))
    assert once[0] > 0.2 and once[1] > 0.08
    assert ten_times[0] < thrice[0] < once[0] and ten_times[0] < 0.05 and ten_times[1] < 0.025


@pytest.mark.parametrize("schedule", [VP(), Linear()], ids=["vp", "linear"])
def test_it_takes_the_evaluations_that_it_announces_and_known_numbers_are_kept(schedule, normal):
    x, y = normal(3, 1, 2, 2), normal(3, 1, 2, 2)
    mask = torch.tensor([True, False, False, True] * 3).view(3, 1, 2, 2)
    for sampler in (RePaint(12, 4, 3), RePaint(7, 3, 2), RePaint(3, 10, 5), RePaint(5, 1, 2)):
        calls = Counter(GaussianDenoiser(0.3, 0.7, schedule))
        out = sampler(calls, schedule.prior(x), condition(mask, y), SampleNoise(0, [0, 1, 2]))
        assert len(calls.times) == sampler.evaluations(schedule)
        assert torch.equal(out[mask], y[mask]) and not (out[~mask] == y[~mask]).any()


def test_without_anything_known_or_repeats_it_is_ancestral_sampling(normal):
    schedule, x = VP(), normal(2, 1, 2, 2)
    denoiser, cond = GaussianDenoiser(0.3, 0.7, schedule), condition(torch.zeros(2, 1, 2, 2).bool(), normal(2, 1, 2, 2))
    only_steps = Alternating(SampleNoise(0, [0, 1]))
    out = RePaint(9, 4, 1)(denoiser, x, cond, only_steps)
    assert torch.equal(out, DDIM(9, eta=1.0)(denoiser, x, Condition(), SampleNoise(0, [0, 1])))


class Alternating:
    """Noise of which every second draw, that of the known part, is 0."""

    def __init__(self, noise):
        self.noise, self.draws = noise, 0

    def __call__(self, like):
        self.draws += 1
        return self.noise(like) if self.draws % 2 else torch.zeros_like(like)


def test_what_is_no_exact_mask_is_refused(normal):
    schedule, x = VP(), normal(2, 1, 2, 2)
    denoiser = GaussianDenoiser(0.3, 0.7, schedule)
    small = Measured(normal(2, 1, 1, 1), torch.zeros(2).double(), Downsample(2))
    noisy = condition(torch.ones(2, 1, 2, 2).bool(), normal(2, 1, 2, 2), noise=0.1)
    for cond, message in (
        (Condition(sampling={"measured": small}), "Downsample"),
        (noisy, "noisy"),
        (Condition(), "there is none"),
    ):
        with pytest.raises(UserError, match=message):
            RePaint(5)(denoiser, x, cond, SampleNoise(0, [0, 1]))
