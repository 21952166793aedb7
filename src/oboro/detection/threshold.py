"""Metrics of the decision score > threshold, with a threshold from validation normals alone."""

from math import ceil

import numpy as np
from numpy.typing import ArrayLike

from oboro.detection.measure import Counts, Measure, checked_scores


def threshold(scores: ArrayLike, share: float = 0.99) -> float:
    """The smallest of the ``scores`` (n,) of validation normals that at least ``share`` of them do not exceed.

    With n < 1 / (1 - share), 100 for 0.99, it is their maximum. Raises ``ValueError`` unless they are finite and some.
    """
    numbers = np.asarray(scores, np.float64)
    if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all() or not 0 < share <= 1:
        raise ValueError(f"the {share} quantile of scores {numbers.shape} needs finite numbers and 0 < share ≤ 1")
    place = ceil(share * numbers.size - 1e-9)  # 0.99 · 100 is more than 99 in floating point
    return float(np.sort(numbers)[max(place, 1) - 1])


class Decision(Measure):
    """Of scores (n,) and flags (n,); a sample is rejected where its score exceeds ``threshold``."""

    def __init__(self, scores: ArrayLike, anomalous: ArrayLike, threshold: float):
        numbers, self.anomalous = checked_scores(scores, anomalous)
        self.rejected = numbers > threshold
        super().__init__(len(numbers))


class Recall(Decision):
    """The share of anomalous samples that are rejected."""

    def of(self, counts: Counts) -> float:
        return float(counts[self.anomalous & self.rejected].sum() / counts[self.anomalous].sum())


class FalsePositiveRate(Decision):
    """The share of normal samples that are rejected."""

    def of(self, counts: Counts) -> float:
        return float(counts[~self.anomalous & self.rejected].sum() / counts[~self.anomalous].sum())


class F1(Decision):
    """2 TP / (2 TP + FP + FN)."""

    def of(self, counts: Counts) -> float:
        true = counts[self.anomalous & self.rejected].sum()
        return float(2 * true / (counts[self.rejected].sum() + counts[self.anomalous].sum()))


def recall(scores: ArrayLike, anomalous: ArrayLike, threshold: float) -> float:
    return Recall(scores, anomalous, threshold)()


def false_positive_rate(scores: ArrayLike, anomalous: ArrayLike, threshold: float) -> float:
    return FalsePositiveRate(scores, anomalous, threshold)()


def f1(scores: ArrayLike, anomalous: ArrayLike, threshold: float) -> float:
    return F1(scores, anomalous, threshold)()
