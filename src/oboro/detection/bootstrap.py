"""Percentile intervals over resampled images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from oboro.base.seeding import generator
from oboro.detection.measure import Counts

Resampled = Callable[[Counts | None], float]  # a Measure, or a difference of two


@dataclass(frozen=True)
class Interval:
    """``value`` of the test set itself, and the ends of the interval that holds the share ``level`` of resamples."""

    value: float
    low: float
    high: float
    level: float
    resamples: int


def resampled_counts(strata: ArrayLike, random: torch.Generator) -> Counts:
    """How often each of n samples is drawn, with replacement and within its stratum, as often as that has samples."""
    _, stratum = np.unique(np.asarray(strata), return_inverse=True)
    counts = np.zeros(len(stratum), np.int64)
    for number in range(int(stratum.max()) + 1):
        rows = np.flatnonzero(stratum == number)
        drawn = torch.randint(len(rows), (len(rows),), generator=random).numpy()
        counts[rows] = np.bincount(drawn, minlength=len(rows))
    return counts


def difference(first: Resampled, second: Resampled) -> Resampled:
    """``first`` - ``second``, both of the same resample: for a paired interval."""

    def of(counts: Counts | None) -> float:
        return first(counts) - second(counts)

    return of


def bootstrap(
    measure: Resampled, strata: ArrayLike, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """The interval of ``measure`` over images, drawn with replacement within each of the ``strata`` (n,): normal and
    anomalous, or finer. Resample k is a function of (seed, k), so metrics of a test set are compared on the same ones.

    It knows the chance of which images are tested, not that of training. Where all resamples are equal, as of an AUROC
    of 1, it is a point.
    """
    return bootstrap_mean([measure], [strata], resamples=resamples, level=level, seed=seed)


def bootstrap_mean(
    measures: Sequence[Resampled],
    strata: Sequence[ArrayLike],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """``bootstrap`` of the mean of ``measures`` over several test sets, each resampled on its own."""
    values = np.mean([measure(None) for measure in measures])
    drawn: NDArray[np.float64] = np.zeros(resamples)
    for place, (measure, groups) in enumerate(zip(measures, strata, strict=True)):
        for k in range(resamples):
            drawn[k] += measure(resampled_counts(groups, generator(seed, "bootstrap", place, k))) / len(measures)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values), float(low), float(high), level, resamples)
