"""The mean of numbers that come in groups, and how far it can be trusted."""

import torch
from torch import Tensor

from oboro.base.seeding import generator

RESAMPLES = 2000
AT_ONCE = 5_000_000  # drawn numbers held at once


def clustered_mean(values: Tensor, groups: Tensor) -> tuple[float, tuple[float, float] | None]:
    """The mean of ``values`` (n,) and its 95 % interval by the percentile bootstrap over ``groups`` (n,), int64.

    Whole groups are drawn with replacement (the cluster bootstrap; Davison & Hinkley 1997, sec. 3.8): samples of one
    condition have its difficulty in common, and as n independent numbers they would make the interval too narrow. The
    draws are the same each time. None for a single group, which says nothing of others.
    """
    values = values.double()
    mean = values.mean().item()
    _, group, sizes = groups.unique(return_inverse=True, return_counts=True)
    count = len(sizes)
    if count < 2:
        return mean, None
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, group, values)
    draw, means = generator(0, "bootstrap over conditions"), []
    for part in torch.arange(RESAMPLES).split(max(1, AT_ONCE // count)):
        chosen = torch.randint(count, (len(part), count), generator=draw)
        means.append(sums[chosen].sum(1) / sizes[chosen].sum(1))
    low, high = torch.cat(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return mean, (low, high)
