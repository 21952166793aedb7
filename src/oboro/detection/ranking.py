"""Metrics of the order of scores: a higher score is more anomalous, equal scores are one threshold."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import label

from oboro.detection.measure import Counts, Flags, Measure, Numbers, checked_maps, checked_scores

FPR_LIMIT = 0.3  # up to which AUPRO is integrated


class Ranks:
    """Anomalous numbers among normal ones, sorted once. ``of`` says which sample each number belongs to; ``weights``
    is what each anomalous one counts, None: 1."""

    def __init__(self, numbers: Numbers, anomalous: Flags, of: NDArray[np.intp], weights: Numbers | None = None):
        order = np.argsort(-numbers[~anomalous])
        falling, found = -numbers[~anomalous][order], -numbers[anomalous]
        self.normal_of, self.anomalous_of, self.weights = of[~anomalous][order], of[anomalous], weights
        self.before = np.searchsorted(falling, found, "left")  # how many normal numbers are larger than each anomalous
        self.upto = np.searchsorted(falling, found, "right")  # and how many are at least as large
        sorting = np.argsort(found)
        self.own_of = self.anomalous_of[sorting]
        self.own_upto = np.searchsorted(found[sorting], found, "right")

    def area(self, counts: Counts, limit: float = 1.0) -> float:
        """1/limit ∫_0^limit TPR dFPR of the curve whose points, one for each threshold, are joined by straight lines.

        An anomalous number s adds its weight from FPR(≥ s) on, and rising linearly from FPR(> s), so each has its
        share of the integral in closed form.
        """
        normal = running(counts[self.normal_of])
        first, last = normal[self.before] / normal[-1], normal[self.upto] / normal[-1]
        rising = np.clip(np.minimum(last, limit) - first, 0, None) ** 2
        slope = np.divide(rising, 2 * (last - first), out=np.zeros_like(rising), where=last > first)
        share = (np.clip(limit - last, 0, None) + slope) / limit
        weights = counts[self.anomalous_of] * (1.0 if self.weights is None else self.weights)
        return float(weights @ share / weights.sum())

    def precision(self, counts: Counts) -> float:
        """Σ_k (R_k - R_{k-1}) P_k: the mean, over anomalous numbers s, of the precision of all that is ≥ s."""
        positive = running(counts[self.own_of])[self.own_upto]
        negative = running(counts[self.normal_of])[self.upto]
        weights = counts[self.anomalous_of]
        kept = weights > 0
        precise = positive[kept] / (positive[kept] + negative[kept])
        return float(weights[kept] @ precise / weights.sum())


def running(counts: Counts) -> NDArray[np.float64]:
    """0, and the sums of the first 1, 2, … counts."""
    return np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])


def regions(masks: Flags) -> Numbers:
    """1 / the size of the connected region that each anomalous pixel of ``masks`` (n, *size) lies in, in their order.
    Pixels that touch at a corner are connected."""
    around = np.ones((3,) * (masks.ndim - 1), bool)
    weights = []
    for mask in masks:
        numbers, _ = label(mask, around)
        weights.append(1 / np.bincount(numbers.ravel())[numbers[mask]])
    return np.concatenate(weights)


class Ranking(Measure):
    """Of scores (n,) and flags (n,)."""

    def __init__(self, scores: ArrayLike, anomalous: ArrayLike):
        numbers, flags = checked_scores(scores, anomalous)
        super().__init__(len(numbers))
        self.ranks = Ranks(numbers, flags, np.arange(len(numbers)))


class PixelRanking(Measure):
    """Of the pixels of maps (n, *size) and masks (n, *size), all images together."""

    def __init__(self, maps: ArrayLike, masks: ArrayLike):
        numbers, flags = checked_maps(maps, masks)
        super().__init__(len(numbers))
        of = np.repeat(np.arange(len(numbers)), numbers[0].size)
        self.ranks = Ranks(numbers.ravel(), flags.ravel(), of, self.weights(flags))

    def weights(self, masks: Flags) -> Numbers | None:
        return None


class AUROC(Ranking):
    """P(score of an anomalous sample > that of a normal one) + P(equal) / 2 (Mann and Whitney)."""

    def of(self, counts: Counts) -> float:
        return self.ranks.area(counts)


class AveragePrecision(Ranking):
    """Σ_k (R_k - R_{k-1}) P_k over thresholds: no trapezoids, which would give a constant detector more than the share
    of anomalous samples."""

    def of(self, counts: Counts) -> float:
        return self.ranks.precision(counts)


class PixelAUROC(PixelRanking):
    """``AUROC`` of pixels."""

    def of(self, counts: Counts) -> float:
        return self.ranks.area(counts)


class PixelAveragePrecision(PixelRanking):
    """``AveragePrecision`` of pixels."""

    def of(self, counts: Counts) -> float:
        return self.ranks.precision(counts)


class AUPRO(PixelRanking):
    """1/limit ∫_0^limit PRO dFPR (Bergmann et al. 2021, IJCV 129, sec. 5.2).

    PRO(τ) is the mean over connected regions of ``masks`` of the share of pixels with a score ≥ τ, FPR(τ) that share of
    all normal pixels. The curve is cut at exactly ``limit``, between two thresholds on the line that joins them, so a
    constant detector has limit / 2.
    """

    def __init__(self, maps: ArrayLike, masks: ArrayLike, limit: float = FPR_LIMIT):
        super().__init__(maps, masks)
        self.limit = limit

    def weights(self, masks: Flags) -> Numbers | None:
        return regions(masks)

    def of(self, counts: Counts) -> float:
        return self.ranks.area(counts, self.limit)


def auroc(scores: ArrayLike, anomalous: ArrayLike) -> float:
    return AUROC(scores, anomalous)()


def average_precision(scores: ArrayLike, anomalous: ArrayLike) -> float:
    return AveragePrecision(scores, anomalous)()


def pixel_auroc(maps: ArrayLike, masks: ArrayLike) -> float:
    return PixelAUROC(maps, masks)()


def pixel_average_precision(maps: ArrayLike, masks: ArrayLike) -> float:
    return PixelAveragePrecision(maps, masks)()


def aupro(maps: ArrayLike, masks: ArrayLike, limit: float = FPR_LIMIT) -> float:
    return AUPRO(maps, masks, limit)()
