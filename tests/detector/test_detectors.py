"""Laws of the detectors, on the exact denoiser of Gaussian data, and against other implementations."""

from math import sqrt

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA as Reference
from torch import nn

from oboro.base.errors import UserError
from oboro.codec import Identity
from oboro.condition import Condition
from oboro.conditioner import Unconditional
from oboro.denoiser import Denoiser
from oboro.detector import PCA, DenoisingError, Likelihood, PartialDiffusion, PatchCore, Pictures
from oboro.detector.patch_core import coreset, nearest
from oboro.distance import Pixel
from oboro.ema import EMA, ConstantDecay
from oboro.evaluate.likelihood import bits_per_dim
from oboro.guidance import DDAD, PiGDM, Unguided
from oboro.loss import Denoising
from oboro.loss.coupling import Independent
from oboro.loss.noise import Simplex
from oboro.loss.penalty import Squared
from oboro.loss.time import Uniform
from oboro.loss.weighting import Uniform as EqualWeight
from oboro.measurement import NAME, Mask, Measured
from oboro.modality import Image
from oboro.optimizer import AdamW
from oboro.parameterization import X0
from oboro.sampler import DDIM, Heun
from oboro.schedule import VP
from oboro.task import Diffusion

STD, SIDE = 0.5, 4
PIXEL = {"pixel": Pixel()}


class ExactNetwork(nn.Module):
    """E[x | x_t] of data N(0, STD² I) where alpha² + sigma² = 1 and the network's answer is x̂0."""

    dims, min_size = 2, 1

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, c_noise, signals):
        alpha2 = torch.sigmoid(-8 * c_noise).view(-1, 1, 1, 1)  # c_noise = -log_snr / 8
        return self.scale * alpha2.sqrt() * STD**2 / (alpha2 * STD**2 + 1 - alpha2) * x


def exact_task(sampler=None, guidance=None, **loss) -> Diffusion:
    parts = Uniform(), EqualWeight(), Squared(), Independent()
    return Diffusion(
        Denoiser(ExactNetwork(), VP(), X0()),
        Identity(1),
        Unconditional(),
        Denoising(*parts, **loss),
        guidance or Unguided(),
        sampler or DDIM(1),
        EMA({"half": ConstantDecay(0.5)}),
        AdamW(1e-3, warmup_steps=0, decay="constant"),
    )


def looked_at(n: int, ids=None, x=None) -> Pictures:
    g = torch.Generator().manual_seed(0)
    x = STD * torch.randn(n, 1, SIDE, SIDE, generator=g) if x is None else x
    return Pictures(x, list(ids or range(n)), 3, Condition())


@pytest.mark.parametrize(("t0", "draws"), [(0.2, 4), (0.7, 1)])
def test_one_evaluation_has_the_error_of_the_posterior_of_normal_data_and_more_of_others(t0, draws):
    """E|x - E[x | x_t]|² is the posterior variance r² = sigma² s² / (alpha² s² + sigma²) for normal data; for
    x = N(0, S²) it is the bias and the noise, (1 - k alpha)² S² + k² sigma², k = alpha s² / (alpha² s² + sigma²). Of
    the mean of n draws the noise is an n-th."""
    task, detector = exact_task(), DenoisingError(PIXEL, [t0], draws)
    alpha, sigma = (c.item() for c in VP()(torch.tensor([t0])))
    k = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    normal = looked_at(4000)
    for scale in (1.0, 3.0):
        pictures = looked_at(4000, x=scale * normal.x)
        found = detector(task, pictures).double().mean().item()
        wanted = (1 - k * alpha) ** 2 * (scale * STD) ** 2 + (k * sigma) ** 2 / draws
        assert found == pytest.approx(wanted, rel=0.03)
    r2 = sigma**2 * STD**2 / (alpha**2 * STD**2 + sigma**2)
    assert (1 - k * alpha) ** 2 * STD**2 + (k * sigma) ** 2 == pytest.approx(r2)


def test_sampling_down_the_exact_flow_keeps_the_noisy_sample_in_its_quantile():
    """The flow of N(0, s² I) is linear: x̂ = x_t0 s / sqrt(alpha² s² + sigma²)."""
    t0, pictures = 0.5, looked_at(3)
    detector = PartialDiffusion(PIXEL, [t0])
    flow, one = exact_task(Heun(200)), exact_task()
    alpha, sigma = (c.item() for c in VP()(torch.tensor([t0])))
    variance = alpha**2 * STD**2 + sigma**2
    x_t = DenoisingError(PIXEL, [t0], draws=1).reconstruct(one, pictures)[0][0] * variance / (alpha * STD**2)
    made = detector.reconstruct(flow, pictures)[0][0]
    assert made.sub(x_t * STD / sqrt(variance)).abs().max() < 3e-3


def test_what_is_found_of_a_sample_depends_on_its_number_and_on_itself_alone():
    detector = PartialDiffusion(PIXEL, [0.3, 0.6], draws=2)
    task = exact_task(DDIM(4, eta=1))
    whole = looked_at(4)
    alone = Pictures(whole.x[2:3], [2], whole.seed, whole.cond)
    assert detector(task, whole)[2:3].sub(detector(task, alone)).abs().max() < 1e-6
    again = Pictures(whole.x[2:3], [7], whole.seed, whole.cond)
    assert detector(task, alone).sub(detector(task, again)).abs().max() > 1e-3
    assert detector.names == ["t=0.3 pixel", "t=0.6 pixel"]


def test_ddad_is_the_papers_pull_on_the_noise():
    """eps' = eps - w sigma (y_t - x_t) with y_t = alpha y + sigma eps, on a schedule with alpha² + sigma² = 1."""
    task, w = exact_task(), 0.7
    g = torch.Generator().manual_seed(1)
    y, x_t = torch.randn(3, 1, SIDE, SIDE, generator=g), torch.randn(3, 1, SIDE, SIDE, generator=g)
    t = torch.tensor([0.1, 0.5, 0.9])
    alpha, sigma = (c.view(-1, 1, 1, 1) for c in VP()(t))
    x0 = task.denoiser(x_t, t, Condition())
    eps = (x_t - alpha * x0) / sigma
    moved = eps - w * sigma * (alpha * y + sigma * eps - x_t)
    given = Measured(y, torch.zeros(3), Mask(torch.ones_like(y, dtype=torch.bool)))
    steered = DDAD(w)(task.denoiser, [])(x_t, t, Condition(sampling={NAME: given}))
    assert steered.sub((x_t - sigma * moved) / alpha).abs().max() < 1e-5
    assert steered.sub(x0 + w * sigma**2 * (y - x0)).abs().max() < 1e-6


def test_ddad_draws_reconstructions_towards_the_sample():
    pictures = looked_at(200, x=2 * looked_at(200).x)
    detector = PartialDiffusion(PIXEL, [0.6])
    errors = [float(detector(exact_task(DDIM(10), DDAD(w)), pictures).mean()) for w in (0.0, 0.5, 1.0)]
    assert errors == sorted(errors, reverse=True) and errors[2] < 0.5 * errors[0]
    plain = float(detector(exact_task(DDIM(10)), pictures).mean())
    assert errors[0] == pytest.approx(plain, rel=1e-6)


def test_what_cannot_be_reconstructed_is_refused():
    kind = Image(1, SIDE, SIDE)
    with pytest.raises(UserError, match="guidance=ddad"):
        PartialDiffusion(PIXEL, [0.5]).check(exact_task(guidance=PiGDM()), kind)
    with pytest.raises(UserError, match="above 0"):
        PartialDiffusion(PIXEL, [0.5, 0.0])
    smooth = exact_task(DDIM(4, eta=1), noise=Simplex(period=4))
    with pytest.raises(UserError, match="sampler=ddim"):
        PartialDiffusion(PIXEL, [0.5]).check(smooth, kind)
    DenoisingError(PIXEL, [0.5]).check(smooth, kind)


def test_likelihood_is_bits_per_dimension():
    task, kind, pictures = exact_task(), Image(1, SIDE, SIDE), looked_at(3, ids=[5, 1, 2])
    detector = Likelihood(steps=4)
    detector.check(task, kind)
    stored = kind.to_stored(pictures.x)
    again = Pictures(kind.to_model(stored), pictures.ids, pictures.seed, pictures.cond)
    bits = bits_per_dim(task.denoiser, stored, Condition(), seed=3, ids=[5, 1, 2], steps=4, probes=1)
    assert torch.equal(detector(task, again)[:, 0], bits.float())


@pytest.mark.parametrize("n", [40, 10])
def test_pca_is_that_of_scikit_learn(n):
    """With fewer samples than dimensions, too."""
    kind = Image(1, SIDE, SIDE)
    stored = torch.randint(256, (n, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    detector = PCA(PIXEL, 5)
    detector.fit(None, stored, kind)
    x = looked_at(6).x
    reference = Reference(5, svd_solver="full").fit(kind.to_model(stored).flatten(1).double().numpy())
    wanted = reference.inverse_transform(reference.transform(x.flatten(1).double().numpy()))
    made = detector.reconstruct(None, Pictures(x, range(6), 0, Condition()))[0][0]
    assert np.abs(made.flatten(1).numpy() - wanted).max() < 1e-5
    other = PCA(PIXEL, 5)
    other.load(detector.state())
    assert torch.equal(other(None, looked_at(6)), detector(None, looked_at(6)))
    with pytest.raises(UserError, match=f"below {min(n, 16)}"):
        PCA(PIXEL, 16).fit(None, stored, kind)


class Values(nn.Module):
    """Features that are the pixels, and their negative: (B, 2, H, W)."""

    channels = (2,)

    def check(self, channels):
        return None

    def forward(self, x):
        return [torch.cat([x, -x], 1)]


def test_patch_core_is_the_distance_from_the_nearest_normal_patch():
    kind, g = Image(1, SIDE, SIDE), torch.Generator().manual_seed(0)
    stored = torch.randint(256, (5, 1, SIDE, SIDE), generator=g, dtype=torch.uint8)
    detector = PatchCore(Values(), neighbourhood=1, share=1.0)
    detector.check(None, kind)
    detector.fit(None, stored, kind)
    x = looked_at(2).x
    normal = kind.to_model(stored).flatten()
    wanted = sqrt(2) * (x.flatten()[:, None] - normal).abs().amin(1).view_as(x)
    assert detector(None, Pictures(x, [0, 1], 0, Condition())).sub(wanted).abs().max() < 1e-3  # by torch.cdist
    assert detector(None, Pictures(kind.to_model(stored), range(5), 0, Condition())).abs().max() < 1e-3


def test_a_coreset_is_greedy():
    """Each is the farthest from those before it: in few dimensions nothing is projected."""
    rows = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    chosen = coreset(rows, 6, torch.Generator().manual_seed(2)).tolist()
    for k in range(1, 6):
        far = nearest(rows, rows[chosen[:k]])
        assert far[chosen[k]] == far.max()
