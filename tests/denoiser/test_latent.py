"""Generators of one step are denoisers: what is decoded is what a sampler draws."""

import pytest
import torch

from oboro.base.errors import UserError
from oboro.condition import Condition, Label
from oboro.denoiser import Denoiser
from oboro.denoiser.latent import decode, encode, reconstruct
from oboro.model import DCGAN, VAE
from oboro.parameterization import X0
from oboro.sampler import DDIM
from oboro.schedule import VP, Karras, Linear

LABELS = Condition.of(label=Label(torch.tensor([0, 2, -1])))
SHAPE = {"size": 9, "latent": 5, "width": 8, "channel_mult": (1, 2), "num_classes": 3}


@pytest.mark.parametrize("schedule", [Linear(), VP(), Karras()], ids=["linear", "vp", "karras"])
@pytest.mark.parametrize("kind", [DCGAN, VAE])
def test_one_step_of_a_sampler_decodes_the_first_numbers_of_the_noise(kind, schedule, normal, randomise):
    denoiser = Denoiser(randomise(kind(1, **SHAPE)).double(), schedule, X0())
    eps = normal(3, 1, 9, 9)
    drawn = DDIM(1)(denoiser, schedule.prior(eps), LABELS, None)
    torch.testing.assert_close(decode(denoiser, eps.flatten(1)[:, :5], (1, 9, 9), LABELS), drawn)


def test_a_reconstruction_is_what_the_decoder_makes_of_the_mean(normal, randomise):
    network = randomise(VAE(1, **SHAPE)).double()
    denoiser, x = Denoiser(network, Linear(), X0()), normal(3, 1, 9, 9)
    mean, log_variance = encode(denoiser, x, LABELS)
    assert mean.shape == log_variance.shape == (3, 5) and mean.std() > 0
    direct = network.decoder(mean, torch.ones(3).double(), LABELS.signals)
    torch.testing.assert_close(reconstruct(denoiser, x, LABELS), direct)
    other = encode(denoiser, x, Condition.of(label=Label(torch.tensor([1, 2, -1]))))[0]
    assert not torch.allclose(other[0], mean[0]) and torch.equal(other[1:], mean[1:])


def test_what_has_no_encoder_says_so(normal):
    with pytest.raises(UserError, match="choose model=vae"):
        encode(Denoiser(DCGAN(1, **SHAPE), Linear(), X0()), normal(3, 1, 9, 9), LABELS)
