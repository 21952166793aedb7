import pytest
import torch
from torch import nn

from oboro.base.spread import spread
from oboro.codec import TinyAutoencoder
from oboro.evaluate.reconstruction import latent_statistics, reconstructions
from oboro.modality import from_uint8

CPU = torch.device("cpu")


@pytest.fixture
def images():
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (230, 1, 6, 4), generator=g, dtype=torch.uint8)


@pytest.fixture
def codec():
    """Latents that are far from 0 and hardly change: what cancellation would spoil."""
    torch.manual_seed(0)
    codec = TinyAutoencoder(1, 2, width=3, blocks=(0, 0)).requires_grad_(False)
    codec.encoder = nn.Conv2d(1, 2, 2, stride=2)
    codec.encoder.weight.data *= 1e-1
    codec.encoder.bias.data[:] = torch.tensor([100.0, -7.0])
    return codec


def test_statistics_are_those_of_all_latents_at_once(codec, images):
    mean, std = latent_statistics(codec, images, range(230), CPU)
    z = codec.double().latent(from_uint8(images).double())
    torch.testing.assert_close(mean, z.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(std, z.std((0, 2, 3), correction=0), rtol=1e-3, atol=0)
    assert mean.dtype == std.dtype == torch.float64


def test_latents_of_a_standardised_codec_have_mean_0_and_deviation_1(images):
    torch.manual_seed(0)
    codec = TinyAutoencoder(1, 3, width=4, blocks=(1, 1)).requires_grad_(False)
    codec.standardise(*latent_statistics(codec, images, range(230), CPU))
    std, mean = torch.std_mean(codec.encode(from_uint8(images)), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(std, torch.ones(3), rtol=1e-5, atol=0)
    again = latent_statistics(codec, images, range(230), CPU)
    torch.testing.assert_close(again[0].float(), codec.latent_mean)  # of the raw latent, whatever was set


def test_reconstructions_are_of_the_rows_in_their_order(codec, images):
    rows = [7, 3, 200, 3]
    codec.encoder, codec.decoder = nn.Identity(), nn.Identity()
    codec.latent_mean, codec.latent_std = torch.tensor([0.3]), torch.tensor([2.0])
    assert torch.equal(reconstructions(codec, images, rows, CPU), images[rows])


@pytest.mark.parametrize(("n", "there"), [(None, 7), (3, 7), (7, 7), (100, 7), (1, 1)])
def test_rows_are_spread_over_all_images(n, there):
    rows = spread(n, there)
    assert len(rows) == min(n or there, there) == len(set(rows)) and rows == sorted(rows) and rows[0] == 0
    gaps = {b - a for a, b in zip(rows, [*rows[1:], there], strict=True)}
    assert max(gaps) - min(gaps) <= 1
