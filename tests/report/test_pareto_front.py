import pytest
import torch

from oboro.report.pareto_front import pareto_front


def dominates(j, i, costs, values, better):
    as_good = costs[j] <= costs[i] and better * values[j] >= better * values[i]
    return as_good and (costs[j], values[j]) != (costs[i], values[i])


@pytest.mark.parametrize("better", [-1, 1])
@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_the_front_is_all_that_nothing_dominates(rng, better, levels):
    """Few levels make ties in cost, in value and in both."""
    for n in range(1, 20):
        costs, values = (torch.randint(0, levels, (n,), generator=rng).tolist() for _ in range(2))
        front = pareto_front(costs, values, better)
        expected = {i for i in range(n) if not any(dominates(j, i, costs, values, better) for j in range(n))}
        assert len(front) == len(set(front)) and set(front) == expected
        assert [costs[i] for i in front] == sorted(costs[i] for i in front)


def test_the_front_knows_no_order_and_no_scale(rng):
    costs, values = torch.rand(2, 30, generator=rng, dtype=torch.float64).tolist()
    front = pareto_front(costs, values, -1)
    order = torch.randperm(30, generator=rng).tolist()
    shuffled = pareto_front([costs[i] for i in order], [values[i] for i in order], -1)
    assert [order[i] for i in shuffled] == front
    assert pareto_front([c**3 for c in costs], [-(v**3) for v in values], 1) == front


def test_the_front_at_its_ends():
    nan, inf = float("nan"), float("inf")
    assert pareto_front([], [], 1) == []
    assert pareto_front([1, 2, 3], [nan, 5, nan], -1) == [1]
    assert pareto_front([nan, 2], [1, 5], -1) == [1]
    assert pareto_front([1, 1, 2], [3, 3, 3], -1) == [0, 1], "equals stand together, and cost more for nothing"
    assert pareto_front([1, 2], [inf, inf], -1) == [0]
    with pytest.raises(ValueError, match="better"):
        pareto_front([1], [1], 0)
