"""The squared maximum mean discrepancy of two sets of features under the cubic polynomial kernel (KID)."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from oboro.base.distributed import share
from oboro.metrics.bank import Bank
from oboro.metrics.metric import Metric, Value
from oboro.metrics.nearest import BLOCK, checked, nearest, rows_of
from oboro.metrics.reference import Reference


@dataclass(frozen=True)
class KernelDistance:
    """An estimate of the squared MMD and the standard deviation of that estimate.

    ``copied`` is by how much the estimate is too low because samples of one set are copies of samples of the other,
    which the mean over pairs takes for independent; 0 where no more of them are close than chance brings.
    """

    value: float
    standard_error: float
    copied: float = 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval ``value`` ± 1.96 ``standard_error``, from the asymptotic normal distribution.

        Its upper end is higher by ``copied``, and not below 0, since no squared MMD is.
        """
        reach = 1.96 * self.standard_error
        return self.value - reach, max(self.value + reach + self.copied, 0.0)


def kernel_distance(x: Tensor, y: Tensor) -> KernelDistance:
    """Unbiased squared MMD of ``x`` (n, d) and ``y`` (m, d) from all samples (Bińkowski et al. 2018,
    arXiv:1801.01401).

    E k(x, x') + E k(y, y') - 2 E k(x, y) with k(x, y) = (x·y / d + 1)³, each mean over pairs of different samples:
    a U-statistic, so it can be negative where the distributions are close. Cost O((n + m)² d), float64.

    The standard error is the delete-one jackknife of two-sample U-statistics (Arvesen 1969),
    (n - 1)/n sum_i (U_-i - U)² and the same for y, added; both sets count as random draws. Where both distributions are
    equal the statistic is degenerate: the jackknife then overestimates its variance, about twofold.

    Samples that are copies of the reference, of which the statistic knows nothing, make it too low, by at most
    2 (E k(x, x) - E k(x, x')) / max(n, m); ``KernelDistance.copied`` estimates by how much.

    Raises ``ValueError`` with fewer than three samples in a set.
    """
    x, y = checked(x, y)
    n, m = len(x), len(y)
    if min(n, m) < 3:
        raise ValueError(f"leaving one out and comparing pairs takes three samples in each set, got {n} and {m}")
    a, b, (c, e) = _within(x), _within(y), _across(x, y)
    value = a.sum() / (n * (n - 1)) + b.sum() / (m * (m - 1)) - 2 * c.sum() / (n * m)
    # Without x_i, U differs from U - without - any other by these terms alone, and the mean of all U_-i is U.
    x_left_out = 2 / (n - 1) * (c / m - a / (n - 2))
    y_left_out = 2 / (m - 1) * (e / n - b / (m - 2))
    variance = (n - 1) * x_left_out.var(correction=0) + (m - 1) * y_left_out.var(correction=0)
    return KernelDistance(value.item(), sqrt(variance.item()), _copied(x, y, c / m))


def _copied(x: Tensor, y: Tensor, usual: Tensor) -> float:
    """How much lower the statistic is for rows of ``x`` (n, d) that are copies of rows of ``y`` (m, d), near ones too.

    Of n independent rows of one distribution with those of y a share s0 = m / (n - 1 + m) is closer to a row of y than
    to another one of x. If the share s is larger by two standard deviations, (s - s0) / (1 - s0) of the rows are
    dependent; each replaces one of m terms of the mean of k(x_i, y_j), ``usual`` (n,), by a larger one.
    """
    n, m = len(x), len(y)
    (distance, partner), (own, _) = nearest(x, y, 1), nearest(x, x, 1, exclude_self=True)
    close = (distance <= own)[:, 0]
    closer, chance = close.double().mean().item(), m / (n - 1 + m)
    if closer <= chance + 2 * sqrt(chance * (1 - chance) / n):
        return 0.0
    pairs = zip(x[close].split(BLOCK), y[partner[close, 0]].split(BLOCK), strict=True)
    with_partner = torch.cat([((a.double() * b.double()).sum(1) / x.shape[1] + 1).pow(3) for a, b in pairs])
    excess = (with_partner - usual[close]).mean().item()
    return max(2 / m * (closer - chance) / (1 - chance) * excess, 0.0)


def kernel_distance_subsets(
    x: Tensor, y: Tensor, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Mean and standard deviation of the unbiased squared MMD over random subsets: the published KID protocol.

    Each of ``subsets`` estimates takes ``size`` rows of ``x`` (n, d) and of ``y`` (m, d) without replacement. The draws
    are those of torch-fidelity, so numbers compare with published ones; ``kernel_distance`` uses all pairs and has the
    smaller variance.

    The standard deviation is no confidence interval of the mean. It is the spread of an estimate from ``size`` samples,
    whatever n is; dividing it by the root of ``subsets`` is no better, since subsets share samples and no number of
    them measures how far these n samples are from the distribution.

    Raises ``ValueError`` where ``size`` is below 2 or above n or m.
    """
    x, y = checked(x, y)
    if not 2 <= size <= min(len(x), len(y)):
        raise ValueError(f"subsets of {size} cannot be drawn from {len(x)} and {len(y)} samples")
    rng = np.random.RandomState(seed)
    distances = []
    for _ in range(subsets):
        chosen = x[torch.from_numpy(rng.choice(len(x), size, replace=False))]
        others = y[torch.from_numpy(rng.choice(len(y), size, replace=False))]
        pairs = (_within(chosen).sum() + _within(others).sum()) / (size * (size - 1))
        distances.append((pairs - 2 * _across(chosen, others)[0].sum() / size**2).item())
    return float(np.mean(distances)), float(np.std(distances))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x_i, y_j) (n, m), float64."""
    return (x.double() @ y.double().T).div_(x.shape[1]).add_(1).pow_(3)


def _across(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the rows (n,) and over the columns (m,): sum_j k(x_i, y_j) and sum_i k(x_i, y_j)."""
    of_x, of_y = zip(*share(_rows_across, rows_of(x), x, y), strict=True)
    return torch.cat(of_x), sum(of_y, torch.zeros(len(y), dtype=torch.float64))


def _rows_across(rows: slice, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    of_x, of_y = torch.zeros(rows.stop - rows.start, dtype=torch.float64, device=x.device), []
    for columns in rows_of(y):
        k = _kernel(x[rows], y[columns])
        of_x += k.sum(1)
        of_y.append(k.sum(0))
    return of_x, torch.cat(of_y)


def _within(x: Tensor) -> Tensor:
    """sum over j != i of k(x_i, x_j), (n,); the kernel is symmetric, so half of it is computed."""
    sums = torch.zeros(len(x), dtype=torch.float64)
    for rows, (diagonal, of_rows, of_columns) in zip(rows_of(x), share(_rows_within, rows_of(x), x), strict=True):
        for part in (diagonal, *of_rows):  # one after the other, as they always were
            sums[rows] += part
        sums[rows.stop :] += of_columns
    return sums


def _rows_within(rows: slice, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the block on the diagonal (b,), and of those to its right over their columns (J, b) and rows."""
    diagonal = _kernel(x[rows], x[rows]).fill_diagonal_(0).sum(1)
    of_rows, of_columns = [diagonal.new_empty(0, len(diagonal))], [diagonal.new_empty(0)]
    for columns in rows_of(x):
        if columns.start > rows.start:
            k = _kernel(x[rows], x[columns])
            of_rows.append(k.sum(1)[None])
            of_columns.append(k.sum(0))
    return diagonal, torch.cat(of_rows), torch.cat(of_columns)


class Kernel(Metric):
    """The squared MMD under the cubic polynomial kernel: KID on Inception's features; unbiased at any n; final."""

    least = 3

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        distance = kernel_distance(generated["features"], reference.bank["features"])
        return {"kd": Value(distance.value, better=-1, interval=distance.interval)}
