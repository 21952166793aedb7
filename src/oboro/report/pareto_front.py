"""What nothing else beats in cost and value at once."""

from collections.abc import Sequence
from itertools import groupby
from math import isnan


def pareto_front(costs: Sequence[float], values: Sequence[float], better: int) -> list[int]:
    """Indices of what nothing dominates, cheapest first; equals stand together and nan is never among them.

    j dominates i where cost_j <= cost_i and better * value_j >= better * value_i, one of them strictly. ``better``: -1
    where smaller values are better, 1 where larger ones are. Raises ``ValueError`` for another.
    """
    if better not in (-1, 1):
        raise ValueError(f"a front needs better = -1 or 1, not {better}")
    known = [i for i, pair in enumerate(zip(costs, values, strict=True)) if not any(map(isnan, pair))]
    front: list[int] = []
    top = float("-inf")
    for _, group in groupby(sorted(known, key=lambda i: costs[i]), key=lambda i: costs[i]):
        equal_cost = list(group)
        best = max(better * values[i] for i in equal_cost)
        if best > top or not front:
            front += [i for i in equal_cost if better * values[i] == best]
            top = best
    return front
