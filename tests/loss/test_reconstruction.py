import pytest
import torch
import torch.nn.functional as F

from oboro.codec import Autoencoder
from oboro.loss import Reconstruction
from oboro.loss.discriminator import Patch
from oboro.loss.perceptual import Perceptual, Zero
from oboro.loss.reconstruction import adaptive_weight, hinge


class Edges(Perceptual):
    """A distance in closed form: the mean absolute difference of horizontal gradients."""

    def differences(self, x, y):
        return [(x - y).diff(dim=-1).abs().mean(1)]


@pytest.fixture
def x():
    return torch.rand(3, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def codec():
    return random(Autoencoder(1, 2, width=8, channel_mult=(1, 2), blocks=1, attention=False, kl_weight=0.1))


@pytest.fixture
def loss():
    return random(
        Reconstruction(Edges(), Patch(1, 8, 1), l1=1.0, l2=0.5, perceptual_weight=0.7, adversarial=0.3, warmup=5)
    )


def random(module):
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.double().parameters():
            p.copy_(torch.randn(p.shape, generator=g) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.5))
    return module


def noise():
    return torch.Generator().manual_seed(7)


def gradients(objective, module):
    return torch.autograd.grad(objective, list(module.parameters()), retain_graph=True, allow_unused=True)


def plain(codec, x):
    """The image, and the objective without a discriminator, term by term."""
    made = codec.reconstruct(x, noise())
    d = made.image - x
    likeness = d.abs().mean((1, 2, 3)) + 0.5 * d.square().mean((1, 2, 3)) + 0.7 * Edges()(made.image, x)
    return made, likeness


def test_before_the_warm_up_it_is_pixels_features_and_the_codec_s_own_term(codec, loss, x):
    made, likeness = plain(codec, x)
    terms = loss(codec, x, 4, noise())
    torch.testing.assert_close(terms.objective, likeness + made.penalty)
    assert set(terms.numbers) == {"pixel", "perceptual", "kl"}


def test_before_the_warm_up_every_weight_has_a_gradient_and_the_discriminator_s_are_zero(codec, loss, x):
    """A process that shares a batch with others waits for a gradient of every weight."""
    loss(codec, x, 4, noise()).objective.mean().backward()
    assert all(p.grad is not None for p in (*codec.parameters(), *loss.parameters()))
    assert all(p.grad.count_nonzero() == 0 for p in loss.parameters())


def test_one_backward_pass_is_that_of_two_players_with_an_optimizer_each(codec, loss, x):
    """The textbook's order: the codec's pass with D as it is, then D's pass on detached images."""
    loss(codec, x, 5, noise()).objective.mean().backward()
    made, likeness = plain(codec, x)
    fooled = -loss.discriminator(made.image).mean((1, 2, 3))
    first, second = (
        torch.autograd.grad(term.mean(), codec.decoder.conv_out.weight, retain_graph=True)[0].norm()
        for term in (likeness, fooled)
    )
    weight = 0.3 * (first / (second + 1e-4)).detach()
    expected = gradients((likeness + made.penalty + weight * fooled).mean(), codec)
    torch.testing.assert_close([p.grad for p in codec.parameters()], list(expected))
    real, fake = loss.discriminator(x), loss.discriminator(made.image.detach())
    judged = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
    torch.testing.assert_close([p.grad for p in loss.parameters()], list(gradients(judged, loss)))


def test_neither_player_s_term_reaches_the_other_s_weights(codec, loss, x):
    image = codec.reconstruct(x, noise()).image
    assert set(gradients(loss.generator_term(image).mean(), loss.discriminator)) == {None}
    assert set(gradients(loss.discriminator_term(x, image).mean(), codec)) == {None}
    assert all(g is not None for g in gradients(loss.discriminator_term(x, image).mean(), loss.discriminator))


def test_the_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer():
    """Of a . w and b . w with |a| = 5 and |b| = 2; constants in the objective."""
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    found = adaptive_weight(a @ w, b @ w, w)
    assert found.item() == pytest.approx(5 / (2 + 1e-4)) and not found.requires_grad
    assert adaptive_weight(a @ w, 0 * b @ w, w).item() == 1e4  # at most


def test_the_hinge_loss_is_zero_beyond_the_margins_and_linear_within():
    real, fake = torch.tensor([[2.0, 1.0], [0.5, -1.0]]), torch.tensor([[-2.0, -1.0], [0.0, 3.0]])
    assert hinge(real, fake).tolist() == [0.0, (0.5 + 2.0 + 1.0 + 4.0) / 4]


def test_a_loss_that_plays_against_nobody_never_asks_the_discriminator(codec, x):
    alone = random(Reconstruction(Zero(), Patch(1, 8, 1), adversarial=0.0, warmup=0))
    made = codec.reconstruct(x, noise())
    expected = (made.image - x).abs().mean((1, 2, 3)) + made.penalty
    torch.testing.assert_close(alone(codec, x, 100, noise()).objective, expected)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_patch_is_as_wide_as_said_and_the_least_image_has_one(layers):
    """16, 34 and 70 pixels: which pixels the logit in the middle depends on."""
    network = random(Patch(1, 4, layers))
    network.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in network.norms)  # statistics see everything
    least = network.least
    assert network(torch.zeros(1, 1, least, least).double()).numel() >= 1
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 1, least - 1, least - 1).double())
    x = torch.zeros(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
    logits = network(x)
    (gradient,) = torch.autograd.grad(logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2], x)
    rows = gradient[0, 0].abs().sum(1).nonzero()
    assert rows.max() - rows.min() + 1 == {1: 16, 2: 34, 3: 70}[layers]


def test_a_logit_depends_on_its_image_alone():
    network, x = random(Patch(1, 8, 2)), torch.randn(4, 1, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(network(x)[:2], network(x[:2]))
