"""Losses of flow maps, held against exact flows, against their formulas written out, and against each other."""

from copy import copy

import pytest
import torch
from torch.func import jvp

from cases import over
from conftest import each_denoiser
from model.test_networks import UNET, make
from oboro.base.draws import replayed
from oboro.condition import Condition, End, Label
from oboro.denoiser import Denoiser, GaussianDenoiser, GaussianFlowMap, MixtureDenoiser
from oboro.loss import ContinuousConsistency, MeanFlow, Shortcut
from oboro.loss.annealing import Annealing
from oboro.loss.continuous_consistency import Trigonometric
from oboro.loss.coupling import Independent
from oboro.loss.derivative import along
from oboro.loss.penalty import Adaptive, Squared
from oboro.loss.straight import Straight
from oboro.loss.time import Level, LogitNormal, LogNormal, Uniform
from oboro.loss.weighting import SNR, LearnedLogVariance, TrigFlow
from oboro.model import UNet
from oboro.parameterization import EDM, V, Velocity
from oboro.schedule import VP, Karras, Linear, expand_as

SCHEDULES = {"linear": Linear(), "vp": VP(), "karras": Karras()}
NONE = Condition()


def mean_flow(**settings):
    parts = {"time": Uniform(), "end_time": Uniform(), "penalty": Squared(), "coupling": Independent()}
    return MeanFlow(**{**parts, "share": 1.0, **settings})


def shortcut(**settings):
    return Shortcut(**{"time": Uniform(), "penalty": Squared(), "coupling": Independent(), "share": 1.0, **settings})


def consistency(**settings):
    parts = {"time": LogNormal(-1.0, 1.4), "weighting": TrigFlow(), "coupling": Independent(), "warmup_steps": 0}
    return ContinuousConsistency(**{**parts, **settings})


class Exact:
    """A teacher that knows."""

    teaches_jumps = False

    def __init__(self, denoiser):
        self.denoiser = denoiser

    def on(self, schedule, like):
        return self.denoiser.reschedule(schedule)


class MixtureFlowMap:
    """x̂0 = (x_s - r x_t) / (alpha_s - r alpha_t), r = sigma_s / sigma_t, of the exact flow of a mixture to straight
    times."""

    parameterization = V()

    def __init__(self, exact, end=None):
        self.exact, self.end, self.schedule = exact, end, exact.schedule

    def towards(self, alpha, sigma):
        return MixtureFlowMap(self.exact, (torch.as_tensor(alpha), torch.as_tensor(sigma)))

    def reschedule(self, schedule):
        return MixtureFlowMap(self.exact.reschedule(schedule), self.end)

    def __call__(self, x_t, t, cond):
        if self.end is None:
            return self.exact(x_t, t, cond)
        a, sigma_t = self.schedule(expand_as(t, x_t))
        b, sigma_s = (expand_as(c.to(x_t).expand_as(t), x_t) for c in self.end)
        s = self.schedule.t_from_log_snr(2 * (b / sigma_s).log()).clamp(min=1e-12).flatten()
        ratio = sigma_s / sigma_t
        x_s = self.exact.flow(x_t, t, s) * b / self.schedule.alpha(expand_as(s, x_t))
        return (x_s - ratio * x_t) / (b - ratio * a)


GAUSSIAN = GaussianDenoiser(0.3, 0.7, Linear())
MIXTURE = MixtureDenoiser(torch.tensor([0.4, 0.6]).double(), torch.tensor([-1.0, 0.7]).double(), 0.3, Linear())


def exact_map(schedule):
    student = GaussianFlowMap(GAUSSIAN.reschedule(schedule))
    student.parameterization = V()
    return student


def means(exact, schedule):
    """A denoiser in the place of a flow map."""
    denoiser = exact.reschedule(schedule)
    denoiser.parameterization = V()
    return denoiser


@pytest.fixture
def batch(normal):
    """x, eps, and quantiles of time that reach both ends."""
    return normal(64, 2), normal(64, 2), torch.linspace(1e-6, 1 - 1e-6, 64, dtype=torch.float64)


# --- residuals of exact flows

LOSSES = {
    "mean flow": mean_flow(teacher=Exact(GAUSSIAN)),
    "mean flow, flow matching for half": mean_flow(teacher=Exact(GAUSSIAN), share=0.5, order="clipped"),
    "improved mean flow": mean_flow(teacher=Exact(GAUSSIAN), improved=True),
    "mean flow by differences": mean_flow(teacher=Exact(GAUSSIAN), derivative="finite"),
    "sCD": consistency(teacher=Exact(GAUSSIAN)),
    "sCD of another width": consistency(teacher=Exact(GAUSSIAN), sigma_data=1.3),
    "shortcut": shortcut(),
}


@over(schedule=SCHEDULES, loss=LOSSES)
def test_of_the_exact_flow_of_a_gaussian_nothing_is_left_to_learn(schedule, loss, batch):
    """A residual of at most 1e-5 at every time, and of one that knows means alone a thousand times as much."""
    x, eps, u = batch
    student = exact_map(schedule)
    left = loss.at_quantile(student, x, NONE, u, eps)
    assert left.max().sqrt() < 1e-5
    assert loss.at_quantile(means(GAUSSIAN, schedule), x, NONE, u, eps).max().sqrt() > 1e-2


@pytest.mark.parametrize("name", ["mean flow", "sCD"])
def test_of_the_exact_flow_of_a_mixture_nothing_is_left_to_learn(name, normal):
    x, eps, u = normal(12, 1), normal(12, 1), torch.linspace(0.02, 0.98, 12, dtype=torch.float64)
    settings = {"teacher": Exact(MIXTURE), "derivative": "finite"}
    loss = mean_flow(**settings) if name == "mean flow" else consistency(**settings, weighting=SNR())
    student = MixtureFlowMap(MIXTURE)
    left = loss.at_quantile(student, x, NONE, u, eps)
    assert left.max().sqrt() < 1e-5 < 1e-2 < loss.at_quantile(means(MIXTURE, Linear()), x, NONE, u, eps).max().sqrt()


def test_conditional_velocities_leave_nothing_in_the_mean(normal):
    """From data, MeanFlow's residual of the exact map has mean zero given z_t: x is normal about D there."""
    n, t, r = 200_000, 0.7, 0.2
    z, time, end = (torch.full(shape, value).double() for shape, value in (((n, 1), 0.4), ((n,), t), ((n,), r)))
    variance = 0.49 * t**2 / ((1 - t) ** 2 * 0.49 + t**2)
    x = GAUSSIAN(z, time, NONE) + variance**0.5 * normal(n, 1)
    v = (z - (1 - t) * x) / t - x
    straight = Straight(exact_map(Linear()))
    slope = along(lambda z, t: straight.u(z, t, end, NONE), (z, time), (v, torch.ones_like(time)), "exact")
    residual = straight.u(z, time, end, NONE) - (v - (t - r) * slope)
    assert residual.mean().abs() < 4 * residual.std() / n**0.5 and residual.std() > 0.1


# --- formulas written out

PARTS = {"head_channels": 8, "reads_end": True, "num_classes": 3}


def network_of(randomise, **settings):
    return randomise(make(UNet, **{**UNET, **PARTS, **settings}))


@pytest.fixture
def question(normal):
    x, eps = normal(3, 1, 8, 8), normal(3, 1, 8, 8)
    u = torch.tensor([0.31, 0.52, 0.93], dtype=torch.float64)
    return x, Condition.of(label=Label(torch.tensor([0, 2, -1]))), u, eps


def gradients(loss, network):
    network.zero_grad()
    loss.sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def velocity_of(network, label):
    """F(z, t, r) on the linear schedule, as MeanFlow's network is called, written out."""

    def u(z, t, r):
        wide = expand_as(t, z)
        c_in = ((1 - wide) ** 2 + wide**2).rsqrt()
        signals = {"end": End(torch.atan2(r, 1 - r) * 2 / torch.pi), "label": Label(label)}
        return network(c_in * z, (t / (1 - t)).log().clamp(-10, 10) / 4, signals)

    return u


@pytest.mark.parametrize("improved", [False, True])
def test_mean_flow_written_out(improved, question, randomise):
    """Value and gradient: MeanFlow's eq. 10 and 11, improved MeanFlow's eq. 8, with the network as u."""
    x, cond, q, eps = question
    network = network_of(randomise)
    loss = mean_flow(improved=improved, share=0.7)
    found = loss.at_quantile(Denoiser(network, Linear(), Velocity()), x, cond, q, eps)
    found_gradients = gradients(found, network)

    t, r = loss.times(Straight(Denoiser(network, Linear(), Velocity())), [q, q * 32 % 1, q * 1024 % 1])
    assert (r < t).any()
    u = velocity_of(network, cond.signals["label"].index)
    wide = expand_as(t, x)
    z, v = (1 - wide) * x + wide * eps, eps - x
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        tangent = u(z, t, t) if improved else v
        _, slope = jvp(lambda z, t: u(z, t, r), (z, t), (tangent, torch.ones_like(t)))
    expected = (u(z, t, r) - (v - expand_as(t - r, x) * slope)).square().flatten(1).mean(1)
    if improved:
        expected = expected + (u(z, t, t) - v).square().flatten(1).mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    for name, gradient in gradients(expected, network).items():
        torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-6, atol=1e-9)


def test_guidance_is_baked_into_the_velocity(question, randomise):
    """v + (1 - 1/w) (u_c - u_∅): where r = t, flow matching of the guided velocity."""
    x, cond, q, eps = question
    network = network_of(randomise)
    u, u_0 = (velocity_of(network, label) for label in (cond.signals["label"].index, torch.full((3,), -1)))
    found = mean_flow(share=0.0, order="clipped", guidance_scale=3.0).at_quantile(
        Denoiser(network, Linear(), Velocity()), x, cond, q, eps
    )
    wide = expand_as(q, x)
    z = (1 - wide) * x + wide * eps
    guided = eps - x + 2 / 3 * (u(z, q, q) - u_0(z, q, q))
    torch.testing.assert_close(found, (u(z, q, q) - guided).square().flatten(1).mean(1), rtol=1e-7, atol=1e-9)


def test_alpha_flow_leads_from_flow_matching_to_mean_flow(question, randomise):
    """alpha = 1 is v at all pairs; the gradients go to MeanFlow's as alpha, whatever the power of the penalty."""
    x, cond, q, eps = question
    denoiser = Denoiser(network_of(randomise), Linear(), Velocity())

    def loss(alpha, penalty=None):
        kind = mean_flow(penalty=penalty or Squared(), share=1.0)
        return kind._loss(denoiser, x, cond, [q, q * 32 % 1, q * 1024 % 1], eps, alpha)

    def gradient(alpha, penalty):
        parts = torch.autograd.grad(loss(alpha, penalty).sum(), list(denoiser.parameters()), allow_unused=True)
        return torch.cat([part.flatten() for part in parts if part is not None])

    t, r = mean_flow().times(Straight(denoiser), [q, q * 32 % 1, q * 1024 % 1])
    u = velocity_of(denoiser.network, cond.signals["label"].index)
    wide = expand_as(t, x)
    flow_matching = (u((1 - wide) * x + wide * eps, t, r) - (eps - x)).square().flatten(1).mean(1)
    torch.testing.assert_close(loss(1.0), flow_matching)
    for penalty in (Squared(), Adaptive(0.5, 1e-30), Adaptive(1.0, 1e-30)):
        whole = gradient(0.0, penalty)
        errors = [(gradient(alpha, penalty) - whole).norm() / whole.norm() for alpha in (1e-3, 1e-4)]
        assert errors[1] < 0.15 * errors[0] and errors[1] < 0.03, penalty


def test_alpha_is_annealed_by_the_step():
    alpha = Annealing(100, 300)
    assert [alpha(step) for step in (0, 100, 300, 900)] == [1.0, 1.0, 0.0, 0.0]
    assert alpha(200) == 0.5 and alpha(190) == pytest.approx(1 - alpha(210)) and 0.5 < alpha(190) < 1


def test_a_jump_of_alpha_flow_costs_an_evaluation_and_a_derivative_two():
    """Beside that of u: three steps of flow matching, one of jumps, two of MeanFlow."""
    loss = mean_flow(alpha=Annealing(2, 4))
    assert [loss.alpha(step) for step in range(6)] == [1, 1, 1, 0.5, 0, 0]
    assert loss.evaluations_until(6) == 3 * 1 + 2 + 2 * 3 and mean_flow().evaluations_until(6) == 6 * 3


def test_continuous_consistency_written_out(question, randomise):
    """Value and gradient: cos(theta) dD/dtheta along the path, and the gradient of F gᵀ (arXiv:2410.11081, eq. 6)."""
    x, cond, *_ = question
    network, data = network_of(randomise, reads_end=False), 0.5
    denoiser = Denoiser(network, Karras(), EDM(data))
    loss = consistency(weighting=SNR(), normalisation=None)
    found = loss(denoiser, x, cond, torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    u, eps = torch.rand(3, generator=g).double(), torch.randn(x.shape, generator=g).double()
    level = Level(u, loss.time, Karras(), EDM(data))
    theta = (level.sigma / (level.alpha * data)).atan()

    def jump(y, theta):
        return Denoiser(network, Trigonometric(data), EDM(data))(y, theta * 2 / torch.pi, cond)

    wide = expand_as(theta, x)
    y, speed = wide.cos() * x + wide.sin() * data * eps, wide.cos() * data * eps - wide.sin() * x
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, slope = jvp(jump, (y, theta), (speed, torch.ones_like(theta)))
        g = wide.cos() * slope
    weight = SNR()(level) * (data * theta.sin()) ** 2
    torch.testing.assert_close(found, weight * g.square().flatten(1).mean(1), rtol=1e-7, atol=1e-9)
    inner = (wide.cos() * y - jump(y, theta)) / (data * wide.sin())  # F
    expected = gradients(-2 * weight * (inner * g).flatten(1).mean(1), network)
    for name, gradient in gradients(found, network).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-9)


def test_the_tangent_is_warmed_up_normalised_and_watched(question, randomise):
    """rho scales the second part of g linearly; |F - target|² is (|g| / (|g| + c))²."""
    x, cond, q, eps = question
    denoiser = Denoiser(network_of(randomise, reads_end=False), Karras(), EDM(0.5))
    loss = consistency(warmup_steps=100, weighting=SNR())
    g0, g1, g2 = (loss._tangent(denoiser, x, cond, q, eps, rho)[2] for rho in (0.0, 0.25, 1.0))
    torch.testing.assert_close(g1, 0.75 * g0 + 0.25 * g2)
    assert [loss.warmup(step) for step in (0, 25, 100, 200)] == [0.0, 0.25, 1.0, 1.0]
    found = loss(denoiser, x, cond, torch.Generator().manual_seed(3), 25)
    g = torch.Generator().manual_seed(3)
    u, noise = torch.rand(3, generator=g).double(), torch.randn(x.shape, generator=g).double()
    level, _, tangent = loss._tangent(denoiser, x, cond, u, noise, 0.25)
    size = tangent.square().flatten(1).mean(1).sqrt()
    normalised = tangent * expand_as(1 / (size + 0.1), x)
    torch.testing.assert_close(found, loss._weighted(level, normalised))
    torch.testing.assert_close(loss.watched["tangent_norm"], size.square().mean().sqrt())


def test_a_learned_weight_divides_by_what_is_left(question, randomise):
    x, cond, *_ = question
    denoiser = Denoiser(network_of(randomise, reads_end=False), Karras(), EDM(0.5))
    weight = LearnedLogVariance(TrigFlow(), 8).double()
    loss, plain = consistency(weighting=weight), consistency(weighting=TrigFlow())
    with torch.no_grad():
        weight.head.fill_(0.7)
    found, base = (kind(denoiser, x, cond, torch.Generator().manual_seed(3)) for kind in (loss, plain))
    u = torch.rand(3, generator=torch.Generator().manual_seed(3)).double()
    s = weight.log_variance(Level(u, loss.time, Karras(), EDM(0.5)))
    torch.testing.assert_close(found, base / s.exp() + s)


def test_shortcut_written_out(question, randomise):
    """Two jumps of half the length, from times that are multiples of the whole one (arXiv:2410.12557, eq. 4)."""
    x, cond, q, eps = question
    network = network_of(randomise)
    loss = shortcut(steps=8, clip=None)
    found = loss.at_quantile(Denoiser(network, Linear(), Velocity()), x, cond, q, eps)
    t, d = loss.jumps([q, q * 32 % 1])
    assert set(d.tolist()) <= {1.0, 0.5, 0.25} and torch.equal((t / d).round(), t / d) and (d <= t).all()
    t = t.clamp(max=1 - 2**-24)
    u = velocity_of(network, cond.signals["label"].index)
    wide, half = expand_as(t, x), (t - (t - d).round(decimals=6).clamp(min=0)) / 2
    z = (1 - wide) * x + wide * eps
    first = u(z, t, t - half)
    second = u(z - expand_as(half, x) * first, t - half, t - 2 * half)
    expected = (u(z, t, t - 2 * half) - (first + second) / 2).square().flatten(1).mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


# --- laws of all of them

KINDS = {
    "mean flow": mean_flow(time=LogitNormal(), end_time=LogitNormal()),
    "improved": mean_flow(time=LogitNormal(), end_time=LogitNormal(), improved=True),
    "finite": mean_flow(time=LogitNormal(), end_time=LogitNormal(), derivative="finite"),
    "shortcut": shortcut(time=LogitNormal(), share=0.5),
    "sCT": consistency(weighting=SNR()),
}


@each_denoiser
def test_the_mean_velocity_is_that_of_every_denoiser(schedule, parameterization, randomise, normal):
    """(z - x̂0) / t at z = x_t / (alpha + sigma), for what predicts eps where no signal is left, too."""
    denoiser = Denoiser(network_of(randomise, num_classes=0), schedule, parameterization)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    alpha, sigma = (expand_as(c, normal(3, 1, 8, 8)) for c in schedule(t))
    x_t = normal(3, 1, 8, 8)
    end = torch.tensor([0.0, 0.1, 0.05], dtype=torch.float64)
    x0 = denoiser.towards(1 - end, end)(x_t, t, NONE)
    time = (sigma / (alpha + sigma)).flatten()
    straight = Straight(denoiser)
    u = straight.u(x_t / (alpha + sigma), time, end, NONE)
    expected = (x_t / (alpha + sigma) - x0) / expand_as(time, x_t)
    torch.testing.assert_close(u, expected, rtol=1e-6, atol=1e-6)
    top = torch.ones(3, dtype=torch.float64)
    assert straight.u(x_t, straight.within(top), end, NONE).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_has_the_same_loss_on_every_schedule(kind, question, randomise):
    x, cond, q, eps = question
    network, q = network_of(randomise), 0.3 + 0.3 * q  # between the ends of all schedules
    first, *others = (
        KINDS[kind].at_quantile(Denoiser(network, schedule, EDM(0.5)), x, cond, q, eps)
        for schedule in SCHEDULES.values()
    )
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_have_the_masks_of_the_other_side(kind, question, randomise):
    """In training mode, with a mask that would be another one at each draw: exact derivatives are finite ones."""
    x, cond, q, eps = question
    denoiser = Denoiser(network_of(randomise, dropout=0.5).train(), Linear(), Velocity())
    losses = []
    for derivative in ("exact", "finite"):
        loss = copy(KINDS[kind])
        loss.derivative = derivative
        with replayed(x.device):
            torch.manual_seed(5)
            losses.append(loss.at_quantile(denoiser, x, cond, q, eps).detach())
    torch.testing.assert_close(*losses, rtol=2e-3, atol=1e-5)
