"""Guidance by a measurement against the posterior p(x | y) in closed form."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from oboro.base.errors import UserError
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition, Label
from oboro.denoiser import Denoiser
from oboro.denoiser.exact import GaussianDenoiser, MixtureDenoiser
from oboro.guidance import DDNM, DPS, MMPS, ClassifierFree, PiGDM
from oboro.measurement import Blur, Downsample, Grey, Mask, Measured
from oboro.parameterization import EDM
from oboro.sampler import DDIM, Heun
from oboro.sampler.node import nodes
from oboro.schedule import VP, Linear
from sampler.toys import Counter

pytestmark = pytest.mark.usefixtures("global_generator_unread")

MEAN, STD, NOISE = 0.3, 0.7, 0.2
SHAPE = (3, 2, 2)
MASK = torch.tensor([[[[1, 0], [1, 1]]], [[[0, 1], [0, 0]]], [[[1, 1], [0, 1]]]], dtype=torch.bool)
KINDS = {"mask": Mask(MASK), "downsample": Downsample(2), "blur": Blur(0.5), "grey": Grey()}
T = torch.tensor([1.0, 0.6, 0.1], dtype=torch.float64)


def condition(operator, noise: float, y=None, rows: int = 3) -> Condition:
    g = torch.Generator().manual_seed(1)
    if y is None:
        y = operator.measured(operator(torch.randn(rows, *SHAPE, generator=g, dtype=torch.float64)))
    return Condition(sampling={"measured": Measured(y, torch.full((rows,), noise, dtype=torch.float64), operator)})


def posterior(operator, y, noise, alpha=0.0, sigma=1.0, x_t=None, variances=STD**2):
    """Mean (B, d) and covariance (B, d, d) of x given y, and x_t where alpha > 0: x, x_t and y are jointly Gaussian,
    the numbers of x with these ``variances``."""
    rows, d = len(y), 12
    units = torch.eye(d, dtype=torch.float64).view(d, 1, *SHAPE)
    a = torch.stack([operator(u.expand(rows, *SHAPE)).flatten(1) for u in units], -1)
    h, seen, noises = a, y.flatten(1), [noise**2] * y[0].numel()
    if x_t is not None:
        h = torch.cat([alpha * torch.eye(d, dtype=torch.float64).expand(rows, d, d), a], 1)
        seen, noises = torch.cat([x_t.flatten(1), seen], 1), [sigma**2] * d + noises
    prior = torch.diag(torch.as_tensor(variances, dtype=torch.float64).expand(d))
    cov = h @ prior @ h.mT + torch.diag(torch.tensor(noises, dtype=torch.float64))
    gain = prior @ h.mT @ torch.linalg.pinv(cov, rtol=1e-10, hermitian=True)
    mean = MEAN + (gain @ (seen - MEAN * h.sum(-1))[..., None])[..., 0]
    return mean, (torch.eye(d, dtype=torch.float64) - gain @ h) @ prior


@pytest.mark.parametrize("noise", [NOISE, 0.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", [PiGDM(STD), DDNM(STD), MMPS(std=STD)], ids=["pigdm", "ddnm", "mmps"])
def test_for_isotropic_gaussian_data_it_is_the_denoiser_given_the_measurement(guidance, kind, noise, normal):
    """At pure noise, too, where it is the mean given y alone, and with one evaluation."""
    operator, schedule, x_t = KINDS[kind], Linear(), normal(3, *SHAPE)
    cond = condition(operator, noise)
    calls = Counter(GaussianDenoiser(MEAN, STD, schedule))
    x0 = guidance(calls, [])(x_t, T, cond)
    assert len(calls.times) == 1
    for i, (alpha, sigma) in enumerate(zip(*schedule(T), strict=True)):
        y = cond.sampling["measured"].y
        expected, _ = posterior(operator, y, noise, float(alpha), float(sigma), x_t)
        torch.testing.assert_close(x0[i].flatten(), expected[i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("noise", [NOISE, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_for_all_gaussian_data_mmps_is_the_denoiser_given_the_measurement(kind, noise, normal):
    """Variances that differ from number to number: PiGDM takes them for one, and is off. As many iterations as numbers
    were measured are enough."""
    operator, schedule, x_t = KINDS[kind], Linear(), normal(3, *SHAPE)
    std = 0.2 + torch.arange(12, dtype=torch.float64).view(SHAPE) / 10
    exact, cond, t = GaussianDenoiser(MEAN, std, schedule), condition(operator, noise), T.clamp(max=0.9)
    x0, isotropic = (guidance(exact, [])(x_t, t, cond) for guidance in (MMPS(12), PiGDM(STD)))
    y = cond.sampling["measured"].y
    for i, (alpha, sigma) in enumerate(zip(*schedule(t), strict=True)):
        expected, _ = posterior(operator, y, noise, float(alpha), float(sigma), x_t, std.flatten() ** 2)
        torch.testing.assert_close(x0[i].flatten(), expected[i], rtol=1e-6, atol=1e-6)
        assert (isotropic[i].flatten() - expected[i]).abs().max() > 1e-3 or sigma < 0.2


@pytest.mark.parametrize("kind", ["mask", "blur"])
def test_samples_converge_to_the_posterior_with_the_number_of_steps(kind):
    """Mean and covariance, exactly, since samples are affine in x_T: from 0 and all unit vectors."""
    operator, schedule = KINDS[kind].map(lambda m: m[:1]), Linear()
    one = condition(KINDS[kind], NOISE).rows([0])
    mean, cov = posterior(operator, one.sampling["measured"].y, NOISE)
    x_T = torch.cat([torch.zeros(1, 12), torch.eye(12)]).double().view(13, *SHAPE)
    cond = one.map(lambda signal: signal.expand(13))

    def error(steps):
        guided = PiGDM(STD)(GaussianDenoiser(MEAN, STD, schedule), [])
        first, *rest = Heun(steps)(guided, x_T, cond, None).flatten(1)
        gain = torch.stack(rest) - first
        return float((first - mean[0]).abs().max() + (gain.T @ gain - cov[0]).abs().max())

    coarse, fine, finest = (error(steps) for steps in (25, 100, 400))
    assert coarse > 10 * fine > 100 * finest and finest < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_ddnm_keeps_what_was_measured_and_leaves_the_rest(kind, normal):
    """A D' = y without noise, for any data, and no change in the null space of A."""
    operator, x_t = KINDS[kind], normal(3, *SHAPE)
    denoiser = MixtureDenoiser(*torch.tensor([[0.3, 0.7], [-0.6, 0.5]]).double(), 0.1, Linear())
    cond = condition(operator, 0.0)
    plain, x0 = denoiser(x_t, T, cond), DDNM()(denoiser, [])(x_t, T, cond)
    torch.testing.assert_close(operator(x0), cond.sampling["measured"].y)
    rest = [x - operator.pseudo_inverse(operator(x)) for x in (plain, x0)]
    torch.testing.assert_close(*rest)


def test_dps_moves_the_end_of_an_ancestral_step_by_the_gradient_of_the_norm(normal, noise):
    """x_s' - x_s = -zeta grad |y - A D|, by finite differences, for each sample by itself."""
    schedule, operator, x_t, zeta, h = VP(), KINDS["mask"], normal(3, *SHAPE), 0.3, 1e-6
    denoiser = MixtureDenoiser(*torch.tensor([[0.3, 0.7], [-0.6, 0.5]]).double(), 0.3, schedule)
    cond, grid = condition(operator, NOISE), DDIM(10, eta=1.0).nodes(schedule)
    guided, t = DPS(zeta)(denoiser, grid), grid[4]
    sampler, way = DDIM(10, eta=1.0), {"start": t.t, "stop": grid[5].t}
    plain, moved = (sampler(d, x_t, cond, SampleNoise(0, [0, 1, 2]), **way) for d in (denoiser, guided))

    def norms(x):
        y = cond.sampling["measured"].y
        return (y - operator(denoiser(x, torch.full((3,), t.t).double(), cond))).flatten(1).norm(dim=1)

    for direction in torch.eye(12).double().view(12, 1, *SHAPE):
        slope = (norms(x_t + h * direction) - norms(x_t - h * direction)) / (2 * h)
        torch.testing.assert_close(((moved - plain) * direction).flatten(1).sum(1), -zeta * slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("guidance", [PiGDM(), DDNM(), DPS(), MMPS(2)], ids=["pigdm", "ddnm", "dps", "mmps"])
def test_a_sample_does_not_depend_on_its_companions(guidance, normal):
    """To the last bit: norms and solutions are those of each sample."""
    schedule = VP()
    denoiser = MixtureDenoiser(*torch.tensor([[0.3, 0.7], [-0.6, 0.5]]).double(), 0.3, schedule)
    grid = nodes(schedule, [0.9, 0.5, 0.2, 0.1])
    for operator in (KINDS["mask"], KINDS["blur"]):
        cond, x_t = condition(operator, NOISE), normal(3, *SHAPE)
        guided = guidance(denoiser, grid)
        before = guided(x_t, torch.full((3,), 0.5).double(), cond)
        x_t[1:] *= 30
        after = guided(x_t, torch.full((3,), 0.5).double(), cond)
        assert torch.equal(before[0], after[0]) and not torch.equal(before[1:], after[1:])


# --- data that are a mixture, and Gaussian data: four numbers of which the mean is measured

STD_OF_PART, Y = 0.2, 0.2
SIGNS = torch.tensor([-1.0, 1.0], dtype=torch.float64)


def of_mixture(noise):
    """Mean, variance and covariance of four numbers given their mean, by symmetry the same for all: a mixture of 16."""
    centres = torch.tensor(list(product(SIGNS.tolist(), repeat=4)), dtype=torch.float64)
    variance = STD_OF_PART**2 / 4 + noise**2
    weights = torch.softmax(-((Y - centres.mean(1)) ** 2) / (2 * variance), 0)
    a = torch.full((1, 4), 0.25, dtype=torch.float64)
    gain = STD_OF_PART**2 * a.T / variance
    means = centres + (Y - centres @ a.T) * gain.T
    mean = weights @ means
    within = STD_OF_PART**2 * (torch.eye(4, dtype=torch.float64) - gain @ a)
    cov = within + ((means - mean).T * weights) @ (means - mean)
    return float(mean[0]), float(cov[0, 0]), float(cov[0, 1])


def drawn(denoiser, guidance, noise, y, n=1000):
    """Samples (n, 4) given their mean, by ancestral sampling in 100 steps."""
    source, sampler = SampleNoise(0, range(n)), DDIM(100, eta=1.0)
    given = Measured(torch.full((n, 1, 1, 1), y).double(), torch.full((n,), noise).double(), Downsample(2))
    x_T = denoiser.schedule.prior(source(torch.empty(n, 1, 2, 2, dtype=torch.float64)))
    guided = guidance(denoiser, sampler.nodes(denoiser.schedule))
    with torch.no_grad():
        return sampler(guided, x_T, Condition(sampling={"measured": given}), source).flatten(1)


@pytest.mark.parametrize("guidance", [PiGDM(1.0), DDNM(1.0)], ids=["pigdm", "ddnm"])
def test_samples_of_a_mixture_are_near_its_posterior(guidance):
    """No Gaussian, so not exact: the mean is off by 0.04 and the (co)variance by a tenth of the variance."""
    denoiser = MixtureDenoiser(torch.tensor([0.5, 0.5]).double(), SIGNS, STD_OF_PART, VP())
    x, (mean, variance, covariance) = drawn(denoiser, guidance, 0.1, Y), of_mixture(0.1)
    cov = torch.cov(x.T)
    assert abs(float(x.mean()) - mean) < 0.06
    assert abs(float(cov.diagonal().mean()) - variance) < 0.12 * variance
    assert abs(float(cov[~torch.eye(4, dtype=torch.bool)].mean()) - covariance) < 0.06 * variance


@pytest.mark.slow
def test_dps_is_biased_whatever_the_noise_of_the_measurement_is():
    """Of Gaussian data with y = 1 the mean of four numbers is N(0.95, 0.10²) for noise 0.1 and N(0.70, 0.23²) for 0.3.
    DPS has N(1.00, 0.05²) for both with zeta = 0.3, and N(0.70, 0.28²) with 0.1; PiGDM what is right."""
    denoiser = GaussianDenoiser(MEAN, STD, VP())

    def moments(guidance, noise):
        mean = drawn(denoiser, guidance, noise, 1.0).mean(1)
        return torch.tensor([mean.mean(), mean.std()])

    exact = []
    for noise in (0.1, 0.3):
        gain = STD**2 / 4 / (STD**2 / 4 + noise**2)
        exact.append(torch.tensor([MEAN + gain * (1 - MEAN), STD / 2 * (1 - gain) ** 0.5]).double())
        torch.testing.assert_close(moments(PiGDM(STD), noise), exact[-1], rtol=0, atol=0.02)
    assert torch.equal(tight := moments(DPS(0.3), 0.1), moments(DPS(0.3), 0.3))
    assert (tight - exact[0])[0] > 0.03 and (tight - exact[1])[0] > 0.25
    assert tight[1] < 0.6 * exact[0][1] < 0.3 * exact[1][1]
    assert moments(DPS(0.1), 0.1)[1] > 2 * exact[0][1]


def test_guidance_by_a_condition_is_inside_of_it(small_unet, normal):
    """PiGDM of the classifier-free denoiser."""
    schedule, t = VP(), torch.tensor([0.5, 0.4, 0.3]).double()
    network = Denoiser(small_unet(num_classes=3), schedule, EDM())
    cond = Condition(
        {"label": Label(torch.tensor([0, 1, 2]))},
        sampling={"measured": Measured(normal(3, 1, 4, 4), torch.full((3,), NOISE).double(), Downsample(2))},
    )
    x_t = normal(3, 1, 8, 8)
    around = PiGDM(inside=ClassifierFree(3.0))(network, [])(x_t, t, cond)
    torch.testing.assert_close(around, PiGDM()(ClassifierFree(3.0)(network, []), [])(x_t, t, cond))


def test_latents_go_through_the_decoder(normal):
    """Of data N(m, std² I) in latents and a decoder that is linear, with A Aᵀ a multiple of I: exact, as for pixels."""
    schedule, x_t = Linear(), normal(3, *SHAPE)
    cond = condition(KINDS["mask"], NOISE)
    given, shift = cond.sampling["measured"], normal(*SHAPE)
    exact = GaussianDenoiser(MEAN, STD, schedule)
    wider = replace(given, y=given.operator(3 * given.y + shift), decode=lambda z: 3 * z + shift, noise=3 * given.noise)
    for guidance in (PiGDM(STD), MMPS(std=STD)):
        x0 = guidance(exact, [])(x_t, T, Condition(sampling={"measured": wider}))
        torch.testing.assert_close(x0, guidance(exact, [])(x_t, T, cond), rtol=1e-8, atol=1e-8)


def test_a_guidance_without_a_measurement_says_so(normal):
    with pytest.raises(UserError, match="measurement=mask_box"):
        DDNM()(GaussianDenoiser(MEAN, STD, VP()), [])(normal(3, *SHAPE), T, Condition())
