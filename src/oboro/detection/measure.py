"""What every detection metric is: a function of how often each sample stands in the test set."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oboro.base.counted import counted

Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.floating]


class Measure(ABC):
    """``measure()``: the metric of a test set of n samples; ``measure(counts)``: that of the one in which sample i
    stands ``counts[i]`` times, (n,) int64. What is sorted is sorted once, so that resampling is cheap (``bootstrap``).
    """

    def __init__(self, count: int):
        self.count = count

    def __call__(self, counts: Counts | None = None) -> float:
        return self.of(np.ones(self.count, np.int64) if counts is None else counts)

    @abstractmethod
    def of(self, counts: Counts) -> float: ...


def checked_scores(scores: ArrayLike, anomalous: ArrayLike) -> tuple[Numbers, Flags]:
    """Scores (n,) and which of them are of anomalous samples (n,), bool. ``ValueError`` unless they are finite and
    both kinds are there."""
    return checked(scores, anomalous, "samples", 1)


def checked_maps(maps: ArrayLike, masks: ArrayLike) -> tuple[Numbers, Flags]:
    """Maps and masks, both (n, *size). ``ValueError`` as above, of pixels."""
    return checked(maps, masks, "pixels", None)


def checked(scores: ArrayLike, anomalous: ArrayLike, noun: str, axes: int | None) -> tuple[Numbers, Flags]:
    numbers, flags = np.asarray(scores), np.asarray(anomalous)
    if numbers.dtype.kind in "iub":
        numbers = numbers.astype(np.float64)
    if numbers.shape != flags.shape or flags.dtype != np.bool_ or (axes is not None and numbers.ndim != axes):
        raise ValueError(
            f"scores {numbers.shape} and anomalous {flags.shape} of {flags.dtype} do not belong together: "
            f"one number and one bool for each of the {noun}"
        )
    if broken := int((~np.isfinite(numbers)).sum()):
        raise ValueError(f"{broken:,} of {counted(numbers.size, 'scores')} are NaN or infinite")
    if flags.all() or not flags.any():
        raise ValueError(f"all of {flags.size:,} {noun} are {'anomalous' if flags.any() else 'normal'}")
    return numbers, flags
