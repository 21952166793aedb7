"""What real images score in place of samples: for a distance its floor, beside which a number is read."""

from statistics import fmean, stdev
from typing import Any

import numpy as np

from oboro.base.errors import UserError
from oboro.base.settings import settings, settings_text
from oboro.metrics.cache import Arrays
from oboro.metrics.metric import Metric, compute
from oboro.metrics.reference import Reference, parted

SPLITS = 5  # one split scatters by a tenth to a fifth of its value
WORK = 1e12  # multiplications, about: no further split is measured where all of them would cost more


def real_floor(metric: Metric, reference: Reference, n: int) -> dict[str, dict[str, Any]]:
    """``{short name: {"real": mean, "real_n": k, "real_std": spread, "real_splits": values}}`` over random splits.

    A split takes k = min(n, half) of the real images and measures them against the others.

    For a distance this is what a perfect generator scores with so few samples. ``real_std`` (divisor splits - 1) says
    how far one measurement of k images is from the next; it is left out where the work allows one split alone. Empty
    where half of the real images are too few, or only their moments are known.
    """
    if reference.n < 2 * metric.least:
        return {}
    count = min(n, reference.n // 2)
    splits = [_split(metric, reference, count, 0)]
    if splits[0]:
        splits += [_split(metric, reference, count, k) for k in range(1, affordable(metric, reference))]
    floors: dict[str, dict[str, Any]] = {}
    for short in splits[0]:
        values = [split[short] for split in splits if short in split]
        spread = {"real_std": stdev(values), "real_splits": values} if len(values) > 1 else {}
        floors[short] = {"real": fmean(values), "real_n": count, **spread}
    return floors


def affordable(metric: Metric, reference: Reference) -> int:
    """How many splits to measure, 1 to ``SPLITS``: a function of sizes alone, so the same on every machine."""
    n = reference.n
    d = max(reference.bank[output].shape[1] for output in metric.outputs)
    work = n * d**2 + 30 * d**3 if metric.moments else n**2 * d  # of moments, and of distances between all pairs
    return int(min(max(WORK // work, 1), SPLITS))


def _split(metric: Metric, reference: Reference, count: int, k: int) -> dict[str, float]:
    """The values of the ``k``-th split; none where the metric is undefined on it."""

    def measured() -> Arrays:
        chosen, others = parted(reference.bank, count, k)
        try:
            values = compute(type(metric).__name__, metric, chosen, others)
        except UserError:  # a class that is rare, for one, may be missing on a side
            return {}
        return {short: np.array(value.value) for short, value in values.items()}

    name = f" {k}" if k else ""
    key = f"{settings_text(settings(metric))} of {count} real images against the others{name}, 1"
    return {short: float(value) for short, value in reference.derived(key, measured).items() if np.isfinite(value)}
