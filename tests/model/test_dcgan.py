import pytest
import torch

from oboro.base.errors import UserError
from oboro.condition import Label
from oboro.loss.discriminator import DCGAN as Discriminator
from oboro.model import DCGAN, VAE

SHAPE = {"width": 8, "channel_mult": (1, 2), "num_classes": 3}
LABELS = {"label": Label(torch.tensor([0, 2, -1]))}
C_NOISE = torch.full((3,), 2.5, dtype=torch.float64)


@pytest.fixture(params=[8, 9, (5, 14)], ids=["8", "9", "5x14"])
def size(request):
    return request.param


@pytest.fixture
def x(size, normal):
    height, width = (size, size) if isinstance(size, int) else size
    return normal(3, 2, height, width)


def generator(size, randomise, kind=DCGAN):
    return randomise(kind(2, size, latent=6, **SHAPE)).double()


def test_a_sample_is_a_function_of_the_first_numbers_and_its_label(size, x, randomise):
    network = generator(size, randomise)
    made = network(x, C_NOISE, LABELS)
    assert made.shape == x.shape
    other = x.clone()
    other.flatten(1)[:, 6:] += 1
    assert torch.equal(network(other, C_NOISE - 1, LABELS), made)
    (slope,) = torch.autograd.grad(network(x.requires_grad_(), C_NOISE, LABELS).square().sum(), x)
    assert slope.flatten(1)[:, :6].ne(0).all()
    swapped = network(x, C_NOISE, {"label": Label(torch.tensor([1, 2, -1]))})
    assert not torch.allclose(swapped[0], made[0]) and torch.equal(swapped[1:], made[1:])
    assert torch.equal(network(x, C_NOISE, {})[2], made[2])


@pytest.mark.parametrize("kind", [DCGAN, VAE])
def test_every_pixel_of_a_sample_and_every_parameter_takes_part(kind, size, x, randomise):
    network = generator(size, randomise, kind)
    made = network(x, C_NOISE, LABELS)
    assert (made.var(0) > 0).all()
    value = made.square().sum()
    if kind is VAE:
        value = value + sum(part.sum() for part in network.encode(x, LABELS))
    value.backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_logit_looks_at_every_pixel_of_its_own_picture_and_at_its_label(size, x, randomise):
    network = randomise(Discriminator(2, size, **SHAPE)).double()
    logits = network(x.requires_grad_(), LABELS)
    for i in range(3):
        (slope,) = torch.autograd.grad(logits[i], x, retain_graph=True)
        assert slope[i].ne(0).all() and slope.count_nonzero() == slope[i].numel()
    other = network(x, {"label": Label(torch.tensor([1, 0, 0]))})
    assert not torch.isclose(other, logits).any()


def test_pictures_that_are_too_small_are_refused():
    with pytest.raises(UserError, match="cannot be halved 4 times"):
        Discriminator(1, 14)
    with pytest.raises(UserError, match=r"lower model\.latent"):
        DCGAN(1, 4, latent=17)
