"""Consistency losses against exact flows, and one-step students against the moments of their data."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from oboro.base.seeding import generator
from oboro.condition import Condition
from oboro.denoiser import Denoiser, GaussianDenoiser, GaussianFlowMap, MixtureDenoiser
from oboro.loss import Consistency, curriculum, penalty
from oboro.loss.consistency import WEIGHTS
from oboro.loss.coupling import Independent
from oboro.loss.path import ode_step, times_at
from oboro.loss.penalty import PseudoHuber, Squared
from oboro.loss.time import LogNormal, Uniform
from oboro.model.dropout import Dropout
from oboro.parameterization import EDM, Velocity
from oboro.sampler import DDIM, Heun, nodes
from oboro.schedule import VP, Cosine, Karras, Linear, expand_as

pytestmark = pytest.mark.usefixtures("global_generator_unread")
U = torch.tensor([0.15, 0.3, 0.5, 0.8, 0.97], dtype=torch.float64)
each_schedule = pytest.mark.parametrize("schedule", [Linear(), Cosine(), VP()], ids=["linear", "cosine", "vp"])


def exact(schedule):
    """The mean, and the map to the end of the flow."""
    denoiser = GaussianDenoiser(0.3, 0.7, schedule)
    return denoiser, GaussianFlowMap(denoiser, (1.0, 0.0))


def learning_from(denoiser):
    return SimpleNamespace(on=lambda schedule, like: denoiser, evaluations=1)


def loss_of(n=None, **settings) -> Consistency:
    usual = {"time": Uniform(), "penalty": Squared(), "coupling": Independent(), "weight": "one"}
    steps = curriculum.Easy(q=256.0, stages=1) if n is None else curriculum.Discrete(n, n)
    return Consistency(**{**usual, "curriculum": steps, **settings})


def order(errors: list[float]) -> float:
    return torch.tensor(errors).log2().diff().neg().mean().item()


@each_schedule
@pytest.mark.parametrize(("solver", "expected"), [("ddim", 2), ("heun", 3)])
def test_the_residual_of_distillation_vanishes_with_the_order_of_the_solver(schedule, solver, expected, normal):
    """The jump from x_t and the jump from where the exact teacher's step leads are one point, up to the error of a step
    of length 1/N, O(N^-2) of DDIM and O(N^-3) of Heun. Away from data, where the first step is DDIM's."""
    mean, jump = exact(schedule)
    x, eps, u = normal(5, 3), normal(5, 3), torch.tensor([0.3, 0.45, 0.6, 0.75, 0.9], dtype=torch.float64)
    errors = []
    for n in (40, 80, 160, 320):
        loss = loss_of(n, teacher=learning_from(mean), solver=solver)
        errors.append(loss.at_quantile(jump, x, Condition(), u, eps).sqrt().max().item())
    assert order(errors) == pytest.approx(expected, abs=0.25)
    assert errors[-1] < {"ddim": 1e-4, "heun": 1e-6}[solver]


def test_the_residual_vanishes_for_a_mixture_too(normal):
    schedule = Cosine()
    mixture = MixtureDenoiser(torch.tensor([0.3, 0.7]).double(), torch.tensor([-1.0, 0.8]).double(), 0.3, schedule)

    class Jump:
        def __init__(self):
            self.schedule = schedule

        def towards(self, alpha, sigma):
            return self

        def __call__(self, x_t, t, cond):
            return mixture.flow(x_t, t, torch.zeros_like(t))

    x, eps, u = normal(5, 3), normal(5, 3), torch.tensor([0.3, 0.45, 0.6, 0.75, 0.9], dtype=torch.float64)
    losses = [loss_of(n, teacher=learning_from(mixture)).at_quantile(Jump(), x, Condition(), u, eps) for n in (80, 160)]
    assert order([loss.sqrt().max().item() for loss in losses]) == pytest.approx(3, abs=0.6)


@each_schedule
def test_the_mean_residual_of_training_vanishes_to_second_order(schedule, normal):
    """Given x_t, the mean of x_r is the exact flow's first-order step, so that consistency training has no bias to
    first order (arXiv:2303.01469, theorem 2). The jump of Gaussian data is affine: the mean goes through it."""
    mean, jump = exact(schedule)
    x_t, t = normal(5, 3), torch.linspace(0.3, 0.9, 5, dtype=torch.float64)
    alpha, sigma = schedule(expand_as(t, x_t))
    x = mean(x_t, t, Condition())
    eps = (x_t - alpha * x) / sigma
    errors = []
    for step in (1 / 50, 1 / 100, 1 / 200):

        class Back(curriculum.Curriculum):
            def __call__(self, t, schedule, k, step=step):
                return t, t - step

        loss = loss_of(curriculum=Back())
        errors.append(loss.at_quantile(jump, x, Condition(), t, eps).sqrt().max().item())
    assert order(errors) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(("solver", "sampler"), [("ddim", DDIM(1)), ("heun", Heun(1))])
@pytest.mark.parametrize("schedule", [Linear(), Karras()], ids=["linear", "karras"])
def test_a_step_is_that_of_the_sampler(solver, sampler, schedule, normal):
    """Of every sample its own, into data and out of pure noise too."""
    mean, _ = exact(schedule)
    pairs = [(0.9, 0.6), (0.5, 0.2), (1.0, 0.7), (0.3, 0.0)]
    x = normal(4, 3)
    times = [times_at(torch.tensor(column, dtype=torch.float64), schedule) for column in zip(*pairs, strict=True)]
    ours = ode_step(mean, x, *times, Condition(), solver)
    for row, (t, r) in enumerate(pairs):
        grid = nodes(schedule, [t, r]) if r else [*nodes(schedule, [t]), nodes(Linear(), [0.0])[0]]
        theirs = sampler.solve(mean, x[row : row + 1], grid, Condition(), None)
        torch.testing.assert_close(ours[row : row + 1], theirs)


def test_a_pair_that_ends_in_data_has_the_sample_as_its_target(normal):
    """Whatever the network says there, on Karras too, where t = 0 still has noise."""
    schedule, x, eps = Karras(), normal(5, 3), normal(5, 3)
    denoiser = Denoiser(Ones(), schedule, EDM())
    t = schedule.t_from_log_snr(-2 * torch.log(torch.full((5,), 0.5, dtype=torch.float64)))
    far = loss_of(curriculum=curriculum.Easy(q=2.0, stages=1))  # n(0.5) > 2: r is data
    x_t = x + 0.5 * eps
    expected = (denoiser(x_t, t, Condition()) - x).square().mean(1)
    torch.testing.assert_close(far.at_quantile(denoiser, x, Condition(), t, eps), expected)


class Ones(nn.Module):
    def forward(self, x, c_noise, cond):
        return torch.ones_like(x)


class Masked(nn.Module):
    """What dropout keeps of ones, whatever it is asked."""

    def __init__(self):
        super().__init__()
        self.dropout = Dropout(0.5)
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, c_noise, cond):
        return self.scale * self.dropout(torch.ones_like(x)) + expand_as(c_noise, x)


class Straight:
    """x̂0 = F."""

    schedule = Linear()

    def __init__(self, network):
        self.network = network

    def towards(self, alpha, sigma):
        return self

    def __call__(self, x_t, t, cond):
        return self.network(x_t, t, {})


@pytest.mark.parametrize("teacher", [None, learning_from(Straight(Masked()))], ids=["training", "distillation"])
def test_both_sides_have_the_same_dropout_mask_and_the_next_step_another(normal, teacher):
    network = Masked()
    loss = loss_of(10, teacher=teacher)
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(output - output.amin(1, keepdim=True)))
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            loss(Straight(network), normal(4, 16), Condition(), torch.Generator().manual_seed(0), 0)
    assert torch.equal(seen[0] > 0.5, seen[1] > 0.5) and not torch.equal(seen[1] > 0.5, seen[2] > 0.5)


@pytest.fixture
def global_generator_unread():
    """This module reads torch's global generator for dropout alone, inside of a fork."""
    state = torch.get_rng_state()
    yield
    assert torch.equal(state, torch.get_rng_state())


def test_no_gradient_goes_through_the_target(normal):
    """Of w |D(x_t) - D(x_r)|² / n the gradient is 2 w (D(x_t) - D(x_r)) dD(x_t) / n."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.k = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

        def forward(self, x, c_noise, cond):
            return self.k * torch.sin(3 * x + expand_as(c_noise, x))

    denoiser = Denoiser(Scaled(), Cosine(), Velocity())
    x, eps = normal(5, 3), normal(5, 3)
    loss_of(20).at_quantile(denoiser, x, Condition(), U, eps).sum().backward()
    t, r = (times_at(v, Cosine()) for v in curriculum.Discrete(20, 20)(U, Cosine(), None))
    x_t, x_r = (expand_as(at.alpha, x) * x + expand_as(at.sigma, x) * eps for at in (t, r))
    with torch.no_grad():
        residual = denoiser(x_t, t.t, Condition()) - denoiser(x_r, r.t, Condition())
        c = denoiser.parameterization(*Cosine()(expand_as(t.t, x)))
        slope = c.c_out * torch.sin(3 * c.c_in * x_t + c.c_noise)
    torch.testing.assert_close(denoiser.network.k.grad, (2 * residual * slope / 3).sum())


def test_weights_are_inverse_distances():
    """Of noise levels and of angles, from times near data to noise without signal."""
    schedule = Linear()
    t, r = (times_at(torch.tensor(v, dtype=torch.float64), schedule) for v in ([0.5, 0.2, 1.0], [0.25, 0.0, 0.9]))
    level = torch.tensor([1 - 1 / 3, 0.25, torch.inf], dtype=torch.float64)
    torch.testing.assert_close(WEIGHTS["gap"](t, r), 1 / level)
    angle = [torch.atan(torch.tensor(v, dtype=torch.float64)) * 2 / torch.pi for v in (1, 1 / 3, 0.25, 9)]
    expected = torch.stack([angle[0] - angle[1], angle[2], 1 - angle[3]])
    torch.testing.assert_close(WEIGHTS["angle"](t, r), 1 / expected)


def test_the_norm_is_the_limit_of_the_pseudo_huber_penalty(normal):
    """ECT's penalty, with a gradient that is finite where the error is 0."""
    r = normal(4, 9).requires_grad_()
    norm = PseudoHuber(1e-8)(r)
    torch.testing.assert_close(norm, r.norm(dim=1), rtol=1e-6, atol=0)
    zero = torch.zeros(2, 9, requires_grad=True)
    (gradient,) = torch.autograd.grad(penalty.PseudoHuber(1e-8)(zero).sum(), zero)
    assert torch.equal(gradient, torch.zeros_like(zero))


MEAN = torch.tensor([0.5, -0.3])
COV = torch.tensor([[0.6, 0.3], [0.3, 0.4]])


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        width = 64
        self.body = nn.Sequential(nn.Linear(5, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.head = nn.Linear(width, 2)

    def forward(self, x, c_noise, cond):
        angle = torch.atan(torch.exp(4 * c_noise))[:, None]
        return self.head(self.body(torch.cat([x, angle, torch.sin(4 * angle), torch.cos(4 * angle)], 1)))


class Joint:
    """The exact mean of N(MEAN, COV)."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, x_t, t, cond):
        alpha, sigma = (c[:, None, None] for c in self.schedule(t))
        gain = alpha * COV @ torch.linalg.inv(alpha**2 * COV + sigma**2 * torch.eye(2))
        return MEAN + (gain @ (x_t - alpha[..., 0] * MEAN)[..., None])[..., 0]


METHODS = {
    "training": loss_of(
        curriculum=curriculum.Discrete(8, 64, 3000),
        weight="gap",
        penalty=PseudoHuber(0.03),
        time=LogNormal(-0.5, 1.8),
    ),
    "distillation": loss_of(24, teacher=learning_from(Joint(Cosine()))),
    "tuning": loss_of(
        curriculum=curriculum.Easy(q=2.0, stages=6, every=500),
        weight="gap",
        penalty=PseudoHuber(1e-8),
        time=LogNormal(-0.5, 1.8),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_one_step_student_of_a_toy_has_its_moments(method):
    schedule = Cosine()
    g = generator(0, method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = Denoiser(Small(), schedule, EDM(0.7))
    optimizer = torch.optim.Adam(denoiser.parameters(), 3e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3000)
    root = torch.linalg.cholesky(COV)
    for step in range(3000):
        x = MEAN + torch.randn(256, 2, generator=g) @ root.T
        loss = METHODS[method](denoiser, x, Condition(), g, step).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    with torch.no_grad():
        x = DDIM(1)(denoiser, schedule.prior(torch.randn(20_000, 2, generator=g)), Condition(), None)
    torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=0.06)
    torch.testing.assert_close(torch.cov(x.T), COV, rtol=0, atol=0.09)
