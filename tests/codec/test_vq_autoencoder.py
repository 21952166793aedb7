import math

import pytest
import torch

from oboro.codec import VQAutoencoder


@pytest.fixture
def codec():
    torch.manual_seed(0)
    codec = VQAutoencoder(1, 3, codes=5, width=8, channel_mult=(1, 2), blocks=1, attention=False).double()
    with torch.no_grad():
        for p in codec.parameters():
            p.normal_(std=p[0].numel() ** -0.5 if p.ndim > 1 else 0.5)
    return codec


@pytest.fixture
def x():
    return torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_entry_is_the_nearest(codec, x):
    z = codec.latent(x)
    distance = (z[:, None] - codec.codebook[None, :, :, None, None]).square().sum(2)  # (B, codes, h, w)
    assert torch.equal(codec.nearest(z), distance.argmin(1))
    chosen = codec.look_up(codec.nearest(z))
    torch.testing.assert_close((z - chosen).square().sum(1), distance.min(1).values)


def test_the_entry_is_the_nearest_in_half_precision_too():
    """A run in bfloat16 finds the entries that one in float32 finds."""
    codec = VQAutoencoder(1, 3, codes=4096, width=8, channel_mult=(1,), blocks=1, attention=False)
    g = torch.Generator().manual_seed(0)
    codec.codebook.data.normal_(generator=g)
    z = torch.randn(2, 3, 16, 16, generator=g)
    with torch.autocast("cpu", torch.bfloat16):
        found = codec.nearest(z)
    assert torch.equal(found, codec.nearest(z))


def test_the_decoder_s_gradient_goes_straight_through_to_the_latent(codec, x):
    """d x̂ / d z is that at the entry, as if quantisation were the identity, and the codebook gets none of it."""
    seen = []
    codec.to_latent.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    made = codec.reconstruct(x, torch.Generator())
    error = (made.image - x).abs().sum()
    (straight,) = torch.autograd.grad(error, seen[0], retain_graph=True)
    q = codec.look_up(codec.nearest(seen[0])).detach().requires_grad_()
    (expected,) = torch.autograd.grad((codec.decoder(codec.from_latent(q)) - x).abs().sum(), q)
    torch.testing.assert_close(straight, expected)
    assert torch.autograd.grad(error, codec.codebook, allow_unused=True)[0] is None


def test_codebook_and_commitment_pull_at_their_own_side_alone(codec, x):
    """By hand: d/dz = commitment · 2 (z - q) / n, and d/de of an entry is the sum of 2 (e - z) / n over its places."""
    seen = []
    codec.to_latent.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    penalty = codec.reconstruct(x, torch.Generator()).penalty.sum()
    z = seen[0]
    to_z, to_codebook = torch.autograd.grad(penalty, [z, codec.codebook])
    n, indices = z[0].numel(), codec.nearest(z)
    q = codec.look_up(indices).detach()
    torch.testing.assert_close(to_z, 0.25 * 2 * (z - q).detach() / n)
    expected = torch.zeros_like(codec.codebook)
    pull = (2 * (q - z).detach() / n).movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(to_codebook, expected.index_add(0, indices.flatten(), pull))


def test_decode_quantises_the_latent_that_encode_standardised(codec, x):
    codec.standardise(torch.tensor([0.5, -2.0, 3.0]), torch.tensor([2.0, 0.1, 4.0]))
    z = codec.encode(x)
    expected = codec.reconstruct(x, torch.Generator()).image
    torch.testing.assert_close(codec.decode(z), expected)
    torch.testing.assert_close(codec.decode(z + 1e-9), expected, rtol=0, atol=1e-12)  # rounded away


def test_usage_and_perplexity_are_of_the_codebook_over_all_images(codec):
    rows = torch.tensor([[0.0, 0.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
    found = codec.summary(rows)
    assert found["usage"] == pytest.approx(3 / 5)
    assert found["perplexity"] == pytest.approx(math.exp(-2 * 0.25 * math.log(0.25) - 0.5 * math.log(0.5)))


def test_a_row_of_validation_is_the_entries_of_an_image(codec, x):
    rows = codec.observe(x)
    assert rows.shape == (4, 4 * 4)
    assert torch.equal(rows.long().view(4, 4, 4), codec.nearest(codec.latent(x)))
