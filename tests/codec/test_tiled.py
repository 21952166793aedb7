import pytest
import torch
import torch.nn.functional as F

from oboro.base.errors import UserError
from oboro.codec import Autoencoder, Identity, Tiled, TinyAutoencoder
from oboro.codec.tiled import starts, window


@pytest.fixture
def x():
    return torch.randn(2, 1, 52, 76, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def random(codec):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in codec.parameters():
            p.normal_(std=p[0].numel() ** -0.5 if p.ndim > 1 else 0.5)
    codec.standardise(torch.full((codec.channels,), 0.3), torch.full((codec.channels,), 2.0))
    return codec.double().requires_grad_(False)


def test_an_image_not_larger_than_a_tile_is_left_to_the_codec(x):
    codec = random(Autoencoder(1, 3, width=8, channel_mult=(1, 2), blocks=1))
    tiled = Tiled(codec, tile=76, overlap=16)
    assert torch.equal(tiled.encode(x), codec.encode(x))
    assert torch.equal(tiled.decode(codec.encode(x)), codec.decode(codec.encode(x)))


def test_a_codec_that_sees_less_than_a_quarter_of_the_overlap_is_exact(x):
    """One convolution at each of two sizes: 1 + 2 pixels."""
    codec = random(TinyAutoencoder(1, 3, width=4, blocks=(0, 0)))
    z = codec.encode(x)
    tiled = Tiled(codec, tile=32, overlap=16)
    torch.testing.assert_close(tiled.encode(x), z)
    codec.decoder = torch.nn.Sequential(torch.nn.Upsample(scale_factor=2.0), codec.decoder[-1])
    codec.decoder[-1].weight.data = torch.randn(1, 3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(tiled.decode(z), codec.decode(z))


def test_seams_of_a_codec_that_sees_further_are_blended(x):
    """The largest jump across neighbouring pixels is hardly larger than untiled; tiles side by side make it larger."""
    codec = random(TinyAutoencoder(1, 3, width=8, blocks=(1, 2)))
    z = F.interpolate(codec.encode(x), scale_factor=1.0)
    exact = codec.decode(z)
    error = (Tiled(codec, tile=32, overlap=16).decode(z) - exact).abs()
    coarse = exact.clone()
    for top in range(0, 52, 32):
        for left in range(0, 76, 32):
            piece = codec.decode(z[..., top // 2 : top // 2 + 16, left // 2 : left // 2 + 16])
            coarse[..., top : top + 32, left : left + 32] = piece
    assert error.max() < 0.1 * (coarse - exact).abs().max()


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(52, 32, 16), (76, 32, 8), (33, 32, 16), (32, 32, 16), (9, 8, 4)]
)
def test_tiles_cover_everything_and_their_weights_never_vanish_together(length, tile, overlap):
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts(length, tile, overlap):
        assert start >= 0 and start + min(tile, length) <= length
        total[start : start + tile] += window(min(tile, length), overlap, first=start == 0, last=start + tile >= length)
    assert total.min() >= 1 - 1e-12


def test_tiles_that_do_not_fit_the_codec_are_refused():
    codec = TinyAutoencoder(1, 3, width=4, blocks=(0, 0))
    for tile, overlap in ((33, 16), (32, 12), (32, 24), (32, 0)):
        with pytest.raises(UserError, match="set a tile of n·2 and an overlap of n·8"):
            Tiled(codec, tile, overlap)


def test_codecs_of_images_refuse_other_samples():
    codec = TinyAutoencoder(1, 2, width=4, blocks=(0, 0))
    for of_images in (codec, Tiled(codec, 16, 8)):
        with pytest.raises(UserError, match=r"TinyAutoencoder is a codec of images and a sample is 2×64; .*identity"):
            of_images.latent_shape((2, 64))
    assert Identity(2).latent_shape((2, 64)) == (2, 64)
