"""The game of a generator and its discriminator against its formulas written out."""

from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from loss.opponents import NOTHING, Affine
from oboro.base.draws import BatchGenerator
from oboro.condition import Condition, Label
from oboro.denoiser import Denoiser
from oboro.loss import GAN
from oboro.loss.discriminator import DCGAN as Discriminator
from oboro.model import DCGAN
from oboro.parameterization import X0
from oboro.sampler import DDIM
from oboro.schedule import Linear


class Quadratic(nn.Module):
    """The logit a . x + b |x|² / 2, whose slope is a + b x."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.as_tensor(v, dtype=torch.float64)) for v in (a, b))

    def forward(self, x, signals):
        return x @ self.a + self.b * x.square().sum(1) / 2


def points(seed: int, n: int = 5) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_each_player_lowers_the_cross_entropy_of_what_it_wants():
    loss, x, made = GAN(judge := Quadratic([0.4, -1.0], 0.3), r1=0.0), points(0), points(1)
    entropy = F.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    (_, judged), (_, fooling) = (
        loss.of_opponents(x, made, NOTHING, None)["discriminator"],
        loss.of_learned(x, made, NOTHING, None)["generator"],
    )
    by_hand = entropy(judge(x, {}), ones, reduction="none") + entropy(judge(made, {}), zeros, reduction="none")
    torch.testing.assert_close(judged, by_hand)
    torch.testing.assert_close(fooling, entropy(judge(made, {}), ones, reduction="none"))


def test_the_penalty_is_half_the_squared_slope_at_data_and_teaches_the_discriminator():
    """grad_x D = a + b x, so |grad D|² has the derivatives 2 (a + b x) by a and 2 x . (a + b x) by b."""
    loss, x = GAN(judge := Quadratic([0.4, -1.0], 0.3), r1=3.0), points(0)
    weight, penalty = loss.of_opponents(x, points(1), NOTHING, None)["r1"]
    slope = judge.a.detach() + judge.b.detach() * x
    assert weight == 1.5
    torch.testing.assert_close(penalty.detach(), slope.square().sum(1))
    by_a, by_b = torch.autograd.grad(penalty.sum(), (judge.a, judge.b))
    torch.testing.assert_close(by_a, 2 * slope.sum(0))
    torch.testing.assert_close(by_b, 2 * (x * slope).sum())


def test_validation_is_two_logarithms_of_two_where_nothing_can_be_told():
    blind, student = GAN(Quadratic([0.0, 0.0], 0.0)), Affine([0.0, 0.0], [1.0, 1.0])
    u = torch.full((5,), 0.5, dtype=torch.float64)
    told = blind.at_quantile(student, points(0), NOTHING, u, points(1))
    torch.testing.assert_close(told.detach(), torch.full_like(u, 2 * log(2)))
    sharp = GAN(judge := Quadratic([1.0, 0.5], -0.2)).at_quantile(student, points(0), NOTHING, u, points(1))
    real, false = judge(points(0), {}), judge(points(1), {})  # one step of this generator leaves the noise as it is
    torch.testing.assert_close(sharp, F.softplus(-real) + F.softplus(false))


@pytest.mark.slow
def test_a_generator_learns_the_moments_of_a_plane():
    """Against a discriminator of first and second moments the equilibrium has those of the data. Without R1 the two go
    round it, with R1 they get there (Mescheder et al. 2018)."""
    mean, std = torch.tensor([0.5, -1.0]).double(), torch.tensor([0.3, 1.5]).double()

    class Moments(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(4, dtype=torch.float64))

        def forward(self, x, signals):
            return torch.cat([x, x.square()], 1) @ self.w

    student, loss = Affine([0.0, 0.0], [1.0, 1.0]), GAN(Moments(), r1=0.1)
    generator = torch.Generator().manual_seed(0)
    players = [torch.optim.SGD(part.parameters(), 0.1) for part in (student, loss)]
    for _ in range(3000):
        for player in players:
            player.zero_grad()
        x = mean + std * torch.randn(256, 2, generator=generator, dtype=torch.float64)
        loss(student, DDIM(1), x, NOTHING, generator, True).objective.mean().backward()
        for player in players:
            player.step()
    found = torch.stack([student.mean.detach(), student.std.detach().abs()])
    torch.testing.assert_close(found, torch.stack([mean, std]), rtol=0.07, atol=0.07)


# --- networks of pictures, with labels

LABELS = Condition.of(label=Label(torch.tensor([0, 1, 0, 1, 0, -1])))


@pytest.fixture
def game(randomise):
    shape = {"size": 9, "width": 8, "channel_mult": (1, 2), "num_classes": 2}
    network, judge = randomise(DCGAN(1, latent=5, **shape)), randomise(Discriminator(1, **shape), 1)
    x = torch.randn(6, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    return GAN(judge, r1=0.7), Denoiser(network, Linear(), X0()), x


def gradients(value: torch.Tensor, *networks: nn.Module) -> list[torch.Tensor]:
    parameters = [p for network in networks for p in network.parameters()]
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]


def test_one_backward_pass_gives_each_player_the_gradient_of_its_own_terms(game):
    loss, generator_, x = game
    g = torch.Generator().manual_seed(5)
    objective = loss(generator_, DDIM(1), x, LABELS, g, True).objective.mean()
    torch.rand(6, generator=g.manual_seed(5))  # which node of the sampler; there is one
    made = generator_(torch.randn(x.shape, generator=g), torch.ones(6), LABELS)
    judge = loss.discriminator
    fooling = F.softplus(-judge(made, LABELS.signals)).mean()
    own = x.clone().requires_grad_()
    real, false = judge(own, LABELS.signals), judge(made.detach(), LABELS.signals)
    (slope,) = torch.autograd.grad(real.sum(), own, create_graph=True)
    judged = (F.softplus(-real) + F.softplus(false) + 0.35 * slope.square().sum((1, 2, 3))).mean()
    torch.testing.assert_close(gradients(objective, generator_), gradients(fooling, generator_))
    torch.testing.assert_close(gradients(objective, judge), gradients(judged, judge))
    assert all(grad.abs().max() > 0 for grad in gradients(objective, generator_, judge))


def test_a_generator_that_is_not_due_is_not_moved(game):
    loss, generator_, x = game
    terms = loss(generator_, DDIM(1), x, LABELS, torch.Generator().manual_seed(0), False)
    assert set(terms.numbers) == {"discriminator", "r1"}
    assert all(grad.abs().max() == 0 for grad in gradients(terms.objective.mean(), generator_))


def test_parts_of_a_batch_have_together_the_gradients_of_the_whole(game):
    """As ranks and micro-batches draw (``BatchGenerator``)."""
    loss, generator_, x = game

    def drawn(rows: list[int]):
        own = torch.tensor(rows)
        part = BatchGenerator(torch.Generator().manual_seed(7), 1, own, len(x))
        objective = loss(generator_, DDIM(1), x[own], LABELS.rows(own), part, True).objective
        return gradients(objective.sum() / len(x), generator_, loss)

    halves = [a + b for a, b in zip(drawn([0, 2, 4]), drawn([1, 3, 5]), strict=True)]
    torch.testing.assert_close(halves, drawn(list(range(6))), rtol=1e-4, atol=1e-6)
