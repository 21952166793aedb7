from itertools import permutations

import pytest
import torch
from scipy import stats

from oboro.condition import Condition, Label
from oboro.loss.coupling import Independent, OptimalTransport


def cost(x, eps):
    return float((x - eps).square().sum())


def test_optimal_transport_has_the_least_cost_of_all_permutations(normal):
    x, eps = normal(6, 2, 3), normal(6, 2, 3)
    coupled = OptimalTransport()(x, eps, Condition())
    assert cost(x, coupled) == pytest.approx(min(cost(x, eps[list(p)]) for p in permutations(range(6))), rel=1e-12)
    assert cost(x, coupled) < cost(x, eps) == cost(x, Independent()(x, eps, Condition()))


def test_only_samples_of_equal_condition_exchange_noise(normal):
    """And the multiset of noise of each condition stays, so p(eps | cond) does."""
    x, eps = normal(60, 3), normal(60, 3)
    cond = Condition.of(label=Label(torch.arange(60) % 3), half=Label(torch.arange(60) // 30))
    coupled = OptimalTransport()(x, eps, cond)
    label, half = (signal.index for signal in cond.signals.values())
    groups = [(label == a) & (half == b) for a in range(3) for b in range(2)]
    for rows in groups:
        assert torch.equal(coupled[rows].sort(0).values[:, 0], eps[rows].sort(0).values[:, 0])
        assert cost(x[rows], coupled[rows]) < cost(x[rows], eps[rows])
        torch.testing.assert_close(coupled[rows], OptimalTransport()(x[rows], eps[rows], Condition()))
    assert cost(x, coupled) > cost(x, OptimalTransport()(x, eps, Condition()))


def test_samples_with_a_condition_of_their_own_keep_their_noise(normal):
    eps = normal(5, 3)
    assert torch.equal(OptimalTransport()(normal(5, 3), eps, Condition.of(label=Label(torch.arange(5)))), eps)


def test_noise_given_a_condition_stays_normal_and_across_conditions_it_would_not(normal):
    """Two classes at ±3: assigned over the whole batch, each would be trained with half of the noise only."""
    label = torch.arange(800) % 2
    x, eps = 6.0 * label.double()[:, None] - 3 + 0.1 * normal(800, 1), normal(800, 1)
    conditions = (Condition.of(label=Label(label)), Condition())
    within, across = (OptimalTransport()(x, eps, cond) for cond in conditions)
    assert stats.kstest(within[label == 1, 0].numpy(), "norm").pvalue > 1e-3
    assert (across[label == 1] > -0.1).all()


def test_paths_become_straighter(normal):
    """The velocity eps - x at a point of the path varies less, and with it the curvature of the flow: over eight
    Gaussians on a circle, the variance that (x_t, t) leaves, estimated from nearest neighbours."""
    n = 600
    angle = torch.arange(n) % 8 * (torch.pi / 4)
    x = 2 * torch.stack([angle.cos(), angle.sin()], 1).double() + 0.1 * normal(n, 2)
    eps = normal(n, 2)

    def unexplained(eps):
        x_t, velocity = (x + eps) / 2, eps - x
        near = torch.cdist(x_t, x_t).fill_diagonal_(torch.inf).argmin(1)
        return float((velocity - velocity[near]).square().sum(1).mean() / 2)

    assert unexplained(OptimalTransport()(x, eps, Condition())) < 0.2 * unexplained(eps)
