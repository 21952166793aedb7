"""Truncated consistency: what lies where, and what it is held against."""

from types import SimpleNamespace

import pytest
import torch

from oboro.base.errors import UserError
from oboro.condition import Condition
from oboro.denoiser import GaussianDenoiser, GaussianFlowMap
from oboro.loss import TruncatedConsistency
from oboro.loss.coupling import Independent
from oboro.loss.curriculum import Easy
from oboro.loss.penalty import Squared
from oboro.loss.time import LogNormal, LossAware, Uniform
from oboro.schedule import Cosine, Karras, Linear

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "karras": Karras()}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


class Asked:
    """A map whose questions are kept."""

    def __init__(self, denoiser, shift=0.0):
        self.denoiser, self.schedule, self.shift, self.t = denoiser, denoiser.schedule, shift, []

    def towards(self, alpha, sigma):
        return self

    def __call__(self, x_t, t, cond):
        self.t.append(t)
        return self.denoiser(x_t, t, cond) + self.shift


def jump(schedule):
    return GaussianFlowMap(GaussianDenoiser(0.3, 0.7, schedule), (1.0, 0.0))


def loss_of(teacher, **settings):
    usual = {"time": LogNormal(-1.1, 2.0), "curriculum": Easy(q=256.0, stages=1), "weight": "one"}
    taught = SimpleNamespace(on=lambda schedule, like: teacher)
    return TruncatedConsistency(penalty=Squared(), coupling=Independent(), teacher=taught, **{**usual, **settings})


def level(schedule, t):
    alpha, sigma = schedule(t)
    return sigma / alpha


@each_schedule
def test_times_lie_above_the_transition_with_a_share_at_it(schedule, normal):
    student, teacher = Asked(jump(schedule)), Asked(jump(schedule))
    loss = loss_of(teacher, transition=1.5, boundary=0.25)
    loss(student, normal(2000, 1), Condition(), torch.Generator().manual_seed(0))
    rho = level(schedule, student.t[0])
    at = (rho - 1.5).abs() < 1e-9
    assert at.sum() == 500 and rho.min() > 1.5 - 1e-9
    beyond = rho[~at].log()
    z = torch.distributions.Normal(-1.1, 2.0)
    top = level(schedule, torch.ones(1, dtype=torch.float64)).log().clamp(max=20)
    low = z.cdf(torch.tensor(1.5).log())
    expected = (z.cdf(torch.tensor([2.0, 4.0, 10.0]).log()) - low) / (1 - low)
    found = torch.stack([(beyond < torch.tensor(e).log()).float().mean() for e in (2.0, 4.0, 10.0)])
    torch.testing.assert_close(found.float(), expected.float(), rtol=0, atol=0.04)
    assert (beyond <= top).all()


@each_schedule
def test_below_the_transition_the_target_is_the_teachers(schedule, normal):
    """Student and teacher are one exact map but for constants: the residual says which of them was the target."""
    loss = loss_of(Asked(jump(schedule), shift=5.0), transition=1.0)
    u = torch.tensor([1e-6, 0.5, 0.9], dtype=torch.float64)
    x = torch.full((3, 2), 0.3, dtype=torch.float64)
    residual = loss.at_quantile(Asked(jump(schedule), shift=1.0), x, Condition(), u, torch.zeros_like(x)).sqrt()
    assert residual[0].item() == pytest.approx(4.0, abs=0.05)
    assert residual[1:].max() < 0.05


def test_shares_are_weighted_as_means_of_their_own(normal):
    """E = mean over the others + weight · mean over the boundary."""
    schedule = Linear()
    teacher = Asked(jump(schedule), shift=2.0)
    student = Asked(jump(schedule))
    x = torch.full((400, 1), 0.3, dtype=torch.float64)
    loss = loss_of(teacher, boundary=0.25, boundary_weight=0.1)
    per_sample = loss(student, x, Condition(), torch.Generator().manual_seed(0))
    at = (level(schedule, student.t[0]) - 1).abs() < 1e-9
    assert at.sum() == 100
    plain = per_sample * torch.where(at, 0.25 / 0.1, 0.75)
    torch.testing.assert_close(per_sample.mean(), plain[~at].mean() + 0.1 * plain[at].mean())


def test_times_that_adapt_or_end_below_the_transition_are_refused(normal):
    with pytest.raises(UserError, match="loss/time=log_normal"):
        loss_of(None, time=LossAware(Uniform()))
    beyond = loss_of(Asked(jump(Karras())), transition=1e5)
    with pytest.raises(UserError, match=r"lower loss\.transition"):
        beyond.at_quantile(jump(Karras()), normal(2, 1), Condition(), torch.rand(2).double(), normal(2, 1))
