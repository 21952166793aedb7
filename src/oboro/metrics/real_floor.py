"""What real images score in place of samples: for a distance its floor, beside which a number is read."""

from typing import Any

import numpy as np

from oboro.base.settings import settings, settings_text
from oboro.metrics.cache import Arrays
from oboro.metrics.metric import Metric
from oboro.metrics.reference import Reference, parted


def real_floor(metric: Metric, reference: Reference, n: int) -> dict[str, dict[str, Any]]:
    """``{short name: {"real": number, "real_n": k}}``: the metric of k = min(n, half) real images against the others.

    For a distance this is what a perfect generator scores with so few samples. Empty where half of the real images are
    too few, or only their moments are known.
    """
    if reference.n < 2 * metric.least:
        return {}
    count = min(n, reference.n // 2)

    def compute() -> Arrays:
        chosen, others = parted(reference.bank, count)
        return {short: np.array(value.value) for short, value in metric(chosen, others).items()}

    key = f"{settings_text(settings(metric))} of {count} real images against the others, 1"
    return {short: {"real": float(value), "real_n": count} for short, value in reference.derived(key, compute).items()}
