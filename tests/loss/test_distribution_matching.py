"""The gradients of DMD2 and SiD where both scores are known, and what each network of the game learns from."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from loss.opponents import NOTHING, SCHEDULE, Affine, Exact, Fitted, Teaches, denoising, matching
from oboro.base.draws import BatchGenerator
from oboro.base.errors import UserError
from oboro.condition import Condition, Label
from oboro.denoiser import Denoiser, GaussianDenoiser, GaussianFlowMap
from oboro.loss import DMD2, SiD, time
from oboro.loss.distribution_matching import error_of
from oboro.loss.student import student_samples
from oboro.loss.time import Level
from oboro.model import UNet
from oboro.parameterization import Velocity
from oboro.sampler import DDIM
from oboro.schedule import Karras

MEAN, STD = 0.4, 1.3  # of the teacher
M, S = -0.5, 0.6  # of the student


def quadrature(n: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two independent normal numbers and weights, (n², 1) each: exact for polynomials up to the order 2 n - 1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    z, eps = (v.reshape(-1, 1) for v in torch.meshgrid(*[torch.from_numpy(nodes)] * 2, indexing="ij"))
    w = torch.from_numpy(weights / weights.sum())
    return z, eps, (w[:, None] * w).reshape(-1, 1)


def expected(loss, student: Affine, t: float, weigh=lambda made, real: 1.0) -> torch.Tensor:
    """The expectation of ``loss.matching`` at time ``t`` over what the student draws and the noise."""
    z, eps, w = quadrature()
    made = student(z, None, None)
    level = Level(torch.full((len(z),), t, dtype=torch.float64), time.Uniform(), SCHEDULE, Velocity())
    x_t = level.alpha[:, None] * made + level.sigma[:, None] * eps
    real = loss.teacher.denoiser(x_t, level.t, NOTHING)
    return (w[:, 0] * weigh(made, real) * loss.matching(made, x_t, level, NOTHING)).sum()


def gradients(value: torch.Tensor, student: Affine) -> torch.Tensor:
    return torch.stack(torch.autograd.grad(value, list(student.parameters())))


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_with_exact_scores_the_gradient_of_dmd_is_that_of_the_kl_divergence(t):
    student = Affine(M, S)
    ours = gradients(expected(matching(DMD2, Exact(MEAN, STD), Exact(M, S), weight="snr"), student, t), student)
    alpha, sigma = SCHEDULE(torch.tensor(t, dtype=torch.float64))
    q = torch.distributions.Normal(alpha * student.mean, (alpha**2 * student.std**2 + sigma**2).sqrt())
    p = torch.distributions.Normal(alpha * MEAN, (alpha**2 * STD**2 + sigma**2).sqrt())
    theirs = gradients(torch.distributions.kl_divergence(q, p), student)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)


def test_the_gradient_of_a_sample_is_the_difference_of_the_denoisers_over_its_own_error():
    g = torch.Generator().manual_seed(0)
    made = torch.randn(3, 2, 4, generator=g, dtype=torch.float64).requires_grad_()
    loss = matching(DMD2, real := Exact(MEAN, STD), fake := Exact(M, S))
    level = Level(torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), loss.time, SCHEDULE, Velocity())
    x_t = SCHEDULE.add_noise(made.detach(), torch.randn(3, 2, 4, generator=g, dtype=torch.float64), level.t)
    (ours,) = torch.autograd.grad(loss.matching(made, x_t, level, NOTHING).sum(), made)
    d_real, d_fake = (d(x_t, level.t, NOTHING) for d in (real, fake))
    by_hand = (d_fake - d_real) / (made - d_real).abs().mean((1, 2), keepdim=True) / 8  # a mean over 8 numbers
    torch.testing.assert_close(ours, by_hand.detach())


@pytest.mark.parametrize("kind", [DMD2, SiD])
def test_the_gradient_vanishes_for_every_sample_when_the_distributions_agree(kind):
    student = Affine(M, S)
    value = expected(matching(kind, Exact(MEAN, STD), Exact(MEAN, STD)), student, 0.5)
    assert gradients(value, student).abs().max() == 0 and value == 0


@pytest.mark.parametrize("a", [0.0, 1.0, 1.2])
def test_sid_is_the_identity_of_the_scores_and_its_gradient_goes_through_both(a):
    """D_real - D_fake = c + A (x_t - alpha m), linear for Gaussians: value and gradient in closed form."""
    student, t = Affine(M, S), 0.6
    loss = matching(SiD, Exact(MEAN, STD), Exact(M, S), alpha=a)
    value = expected(loss, student, t, weigh=lambda made, real: error_of(made, real).detach())
    alpha, sigma = (float(v) for v in SCHEDULE(torch.tensor(t, dtype=torch.float64)))
    k_real, k_fake = (alpha * s**2 / (alpha**2 * s**2 + sigma**2) for s in (STD, S))
    c, slope = (MEAN - M) * (1 - alpha * k_real), k_real - k_fake
    variance = alpha**2 * S**2 + sigma**2
    torch.testing.assert_close(value.item(), (1 - a) * (c**2 + slope**2 * variance), rtol=1e-9, atol=1e-12)
    by_hand = c * (alpha * slope * (1 - 2 * a) + alpha * k_real - 1)
    torch.testing.assert_close(gradients(value, student)[0].item(), by_hand, rtol=1e-9, atol=0)


def test_validation_tells_how_far_the_scores_are_apart():
    """In the scale of the networks' outputs, here velocities; 0 where they are equal."""
    x, u = torch.ones(4, 3, dtype=torch.float64), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    eps = torch.full_like(x, 0.5)
    same, other = (matching(DMD2, Exact(MEAN, STD), Exact(*of), time.Uniform()) for of in ((MEAN, STD), (M, S)))
    assert same.at_quantile(None, x, NOTHING, u, eps).max() == 0
    x_t = SCHEDULE.add_noise(x, eps, u)
    velocity = [(x_t - d(x_t, u, NOTHING)) / u[:, None] for d in (Exact(MEAN, STD), Exact(M, S))]
    by_hand = (velocity[0] - velocity[1]).square().mean(1)
    torch.testing.assert_close(other.at_quantile(None, x, NOTHING, u, eps), by_hand)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "ratio"), [(DMD2, 5), (SiD, 1)])
def test_a_student_of_one_step_learns_the_moments_of_a_plane(kind, ratio):
    """Student and fake score both begin away from the teacher, and each learns from the other."""
    mean, std = torch.tensor([0.5, -1.0]).double(), torch.tensor([0.3, 1.5]).double()
    student, fake = Affine([0.0, 0.0], [1.0, 1.0]), Fitted([0.0, 0.0], [1.0, 1.0])
    loss = matching(kind, Exact(mean, std), fake)
    generator, adam = torch.Generator().manual_seed(0), torch.optim.Adam
    players = [adam(student.parameters(), 3e-2, (0.5, 0.9)), adam(fake.parameters(), 3e-2, (0.5, 0.9))]
    averages = []
    for step in range(1500):
        for player in players:
            player.zero_grad()
        due = step % ratio == 0
        x = torch.zeros(256, 2, dtype=torch.float64)
        loss(student, DDIM(1), x, NOTHING, generator, due).objective.mean().backward()
        players[1].step()
        if due:
            players[0].step()
        if step >= 1000:
            averages.append(torch.stack([student.mean.detach(), student.std.detach().abs()]))
    torch.testing.assert_close(torch.stack(averages).mean(0), torch.stack([mean, std]), rtol=0.05, atol=0.05)


# --- what the student draws


@pytest.mark.parametrize("start", ["samples", "data"])
@pytest.mark.parametrize("eta", [0.0, float("inf")])
def test_an_exact_student_has_the_moments_of_the_data_wherever_it_is_asked(start, eta):
    """The flow map of a Gaussian gives data at each of three nodes, of its own way there and of noised data."""
    student = GaussianFlowMap(GaussianDenoiser(MEAN, STD, Karras()))
    g = torch.Generator().manual_seed(1)
    x = MEAN + STD * torch.randn(60, 1000, generator=g, dtype=torch.float64)
    made = student_samples(student, DDIM(3, eta), x, NOTHING, g, start)
    assert abs(made.mean() - MEAN) < 5 * STD / 60_000**0.5
    assert abs(made.std() - STD) < 5 * STD / 120_000**0.5


def test_the_steps_of_training_are_those_of_the_sampler():
    """The student is asked at the nodes of the sampler, each for a third of the samples, where sampling would be."""
    asked = []

    class Recorder(GaussianDenoiser):
        def forward(self, x_t, t, cond):
            asked.append((x_t.clone(), t))
            return super().forward(x_t, t, cond)

    student, sampler = Recorder(MEAN, STD, SCHEDULE), DDIM(3)
    x = torch.zeros(300, 2, dtype=torch.float64)
    student_samples(student, sampler, x, NOTHING, torch.Generator().manual_seed(0), "samples")
    x_k, t_k = asked[-1]
    grid = sampler.nodes(SCHEDULE)
    way = [asked[0][0], asked[1][0]]
    way.append(sampler.solve(student, way[0], grid[:3], NOTHING, None))
    for node, there in zip(grid[:3], way, strict=True):
        rows = t_k == node.t
        assert 70 < rows.sum() < 130
        torch.testing.assert_close(x_k[rows], there[rows])


# --- several networks in one objective


def tiny(seed: int) -> Denoiser:
    """A U-Net whose weights are random, zeros included, of two classes."""
    torch.manual_seed(seed)
    network = UNet(1, channels=8, channel_mult=[1, 2], blocks=1, attention_levels=[1], num_classes=2)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(std=p[0].numel() ** -0.5 if p.ndim > 1 else 0.5)
    return Denoiser(network, SCHEDULE, Velocity())


def game(kind=DMD2, **settings):
    torch.manual_seed(3)
    loss = kind(Teaches(tiny(0).eval().requires_grad_(False)), tiny(1), time.Uniform(), denoising(), **settings)
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return loss, tiny(2), x, Condition.of(label=Label(torch.tensor([0, 1, 0, 1, 0, -1])))


def gradients_of(value: torch.Tensor, *networks: nn.Module) -> list[torch.Tensor]:
    parameters = [p for network in networks for p in network.parameters()]
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]


@pytest.mark.parametrize("kind", [DMD2, SiD])
def test_one_backward_pass_gives_each_network_the_gradient_of_its_own_terms(kind):
    loss, student, x, cond = game(kind, adversarial=0.5, discriminator_weight=0.2)
    generator = torch.Generator().manual_seed(5)
    objective = loss(student, DDIM(2, float("inf")), x, cond, generator, True).objective.mean()
    of_student, of_fake = gradients_of(objective, student), gradients_of(objective, loss.fake, loss.head)
    generator.manual_seed(5)
    made = student_samples(student, DDIM(2, float("inf")), x, cond, generator, "samples")
    theirs = loss.of_opponents(x, made.detach(), cond, generator)
    own = loss.of_learned(x, made, cond, generator)
    alone = [sum(w * term.mean() for w, term in terms.values()) for terms in (own, theirs)]
    assert all(map(torch.equal, of_student, gradients_of(alone[0], student)))
    assert all(map(torch.equal, of_fake, gradients_of(alone[1], loss.fake, loss.head)))
    assert all(g.abs().max() == 0 for g in gradients_of(alone[0], loss.fake, loss.head))
    assert all(g.abs().max() > 0 for g in (*of_student, *of_fake))
    waiting = loss(student, DDIM(2), x, cond, generator, False)
    assert all(g.abs().max() == 0 for g in gradients_of(waiting.objective.mean(), student))
    assert set(waiting.numbers) == {"fake", "discriminator"}


def test_the_discriminator_is_a_classifier_of_noised_data_and_samples():
    loss, _, x, cond = game(adversarial=0.5)
    told = []
    loss.head.register_forward_hook(lambda module, inputs, logit: told.append(logit.detach()))
    _, judged = loss.of_opponents(x, -x, cond, torch.Generator().manual_seed(0))["discriminator"]
    real, false = told
    entropy = F.binary_cross_entropy_with_logits
    by_hand = entropy(real, torch.ones(6), reduction="none") + entropy(false, torch.zeros(6), reduction="none")
    torch.testing.assert_close(judged.detach(), by_hand)
    (_, fooling) = loss.of_learned(x, x, cond, torch.Generator().manual_seed(0))["generator"]
    torch.testing.assert_close(fooling.detach(), entropy(told[2], torch.ones(6), reduction="none"))


def test_parts_of_a_batch_have_together_the_gradients_of_the_whole():
    """As ranks and micro-batches draw (``BatchGenerator``): every number that is drawn belongs to a sample."""
    loss, student, x, cond = game(adversarial=0.5)
    networks = student, loss.fake, loss.head

    def drawn(rows: list[int]):
        whole, own = torch.Generator().manual_seed(7), torch.tensor(rows)
        part = BatchGenerator(whole, 1, own, len(x))
        objective = loss(student, DDIM(3, float("inf")), x[own], cond.rows(own), part, True).objective
        return gradients_of(objective.sum() / len(x), *networks)

    halves = [a + b for a, b in zip(drawn([0, 2, 4]), drawn([1, 3, 5]), strict=True)]
    for half, whole in zip(halves, drawn(list(range(6))), strict=True):
        torch.testing.assert_close(half, whole, rtol=1e-4, atol=1e-6)


def test_the_fake_score_answers_without_dropout_and_learns_with_it():
    loss, student, x, cond = game(adversarial=0.5)
    seen = []
    loss.train()
    for part in loss.fake.modules():
        part.register_forward_pre_hook(lambda module, inputs: seen.append(module.training))
    loss(student, DDIM(1), x, cond, torch.Generator().manual_seed(0), True)
    assert any(seen) and not all(seen)
    assert all(part.training for part in loss.fake.modules())


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(UserError, match="loss/time=uniform"):
        matching(DMD2, Exact(MEAN, STD), Exact(M, S), time.LossAware(time.Uniform()))
    with pytest.raises(UserError, match="low < high"):
        time.Uniform(0.5, 0.5)
    teacher = Teaches(Exact(MEAN, STD))
    with pytest.raises(UserError, match=r"loss\.adversarial=0"):
        DMD2(teacher, Exact(M, S), time.Uniform(), denoising())
