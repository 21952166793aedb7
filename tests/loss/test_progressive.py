"""Progressive distillation: the student that the target asks for takes two steps of DDIM in one."""

from types import SimpleNamespace

import pytest
import torch

from oboro.condition import Condition
from oboro.denoiser import GaussianDenoiser, GaussianFlowMap
from oboro.loss import Progressive
from oboro.loss.coupling import Independent
from oboro.loss.penalty import Squared
from oboro.sampler import DDIM, Heun, nodes
from oboro.schedule import VP, Cosine, Linear, expand_as

each_schedule = pytest.mark.parametrize("schedule", [Linear(), Cosine(), VP()], ids=["linear", "cosine", "vp"])


def learning_from(denoiser):
    return SimpleNamespace(on=lambda schedule, like: denoiser, evaluations=1)


class ManyInOne:
    """x̂0 with which one step of DDIM, of length 1/n, lands where ``parts`` of ``solver`` of an equal part of it do."""

    def __init__(self, exact, n, parts=2, solver=DDIM):
        self.exact, self.schedule, self.n, self.parts, self.solver = exact, exact.schedule, n, parts, solver

    def towards(self, alpha, sigma):
        return self

    def __call__(self, x_t, t, cond):
        x0 = torch.empty_like(x_t)
        for row, time in enumerate(t.tolist()):
            a, *between, c = nodes(self.schedule, [time - k / self.parts / self.n for k in range(self.parts + 1)])
            if time - 1 / self.n < 1e-9:
                c = nodes(Linear(), [0.0])[0]
            grid = [a, *between, c]
            x_s = self.solver(self.parts).solve(self.exact, x_t[row : row + 1], grid, cond, None)
            ratio = c.sigma / a.sigma
            x0[row] = ((x_s - ratio * x_t[row : row + 1]) / (c.alpha - ratio * a.alpha))[0]
        return x0


@each_schedule
@pytest.mark.parametrize("parts, solver", [(2, DDIM), (4, DDIM), (2, Heun)])
def test_the_target_is_several_steps_of_the_teacher(parts, solver, schedule, normal):
    """From noise without signal and into exact data, too: the loss of such a student is 0. Heun's are no jumps."""
    exact, n = GaussianDenoiser(0.3, 0.7, schedule), 4
    steps = {"steps": n, "teacher_steps": parts, "solver": solver.__name__.lower()}
    loss = Progressive(Squared(), Independent(), learning_from(exact), **steps)
    asked = (1 + parts, parts * n) if solver is DDIM else (1 + 2 * parts, None)
    assert (loss.evaluations, loss.asks_steps) == asked
    x, eps = normal(6, 3), normal(6, 3)
    u = torch.tensor([0.01, 0.25, 0.3, 0.6, 0.9, 1.0], dtype=torch.float64)
    assert loss.at_quantile(ManyInOne(exact, n, parts, solver), x, Condition(), u, eps).max() < 1e-20
    assert loss.at_quantile(exact, x, Condition(), u, eps).max() > 1e-6


@each_schedule
def test_the_student_draws_in_n_steps_what_the_teacher_does_in_2n(schedule, normal):
    exact, n = GaussianDenoiser(0.3, 0.7, schedule), 4
    x = schedule.prior(normal(5, 3))
    student = DDIM(n)(ManyInOne(exact, n), x, Condition(), None)
    torch.testing.assert_close(student, DDIM(2 * n)(exact, x, Condition(), None))


def test_the_weight_is_the_truncated_snr(normal):
    """max(alpha² / sigma², 1) times the mean squared distance to the target."""
    schedule, n = Cosine(), 10
    exact = GaussianDenoiser(0.3, 0.7, schedule)
    loss = Progressive(Squared(), Independent(), learning_from(exact), steps=n)
    x, eps, u = normal(2, 3), normal(2, 3), torch.tensor([0.2, 0.9], dtype=torch.float64)

    class Off(ManyInOne):
        def __call__(self, x_t, t, cond):
            return super().__call__(x_t, t, cond) + 0.1

    alpha, sigma = schedule(u)
    expected = 0.01 * (alpha / sigma).square().clamp(min=1)
    torch.testing.assert_close(loss.at_quantile(Off(exact, n), x, Condition(), u, eps), expected)


def test_in_the_limit_of_many_steps_the_mean_is_the_target(normal):
    """A step of length 0 is that of the mean, and that of the exact flow map towards where it is."""
    schedule = Linear()
    exact = GaussianDenoiser(0.3, 0.7, schedule)
    x, eps, u = normal(5, 3), normal(5, 3), torch.linspace(0.2, 0.9, 5, dtype=torch.float64)
    for n, most in ((100, 1e-3), (1000, 1e-5)):
        loss = Progressive(Squared(), Independent(), learning_from(exact), steps=n)
        s = torch.ceil(u * n) / n - 1 / n
        ahead = GaussianFlowMap(exact).towards(*(expand_as(c, x)[:, 0] for c in schedule(s)))
        assert loss.at_quantile(exact, x, Condition(), u, eps).max() < most
        assert loss.at_quantile(ahead, x, Condition(), u, eps).max() < most
