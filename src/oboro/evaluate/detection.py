"""The metrics of a test set, each with its interval."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from oboro.anomalies import GOOD, TestSet
from oboro.detection.bootstrap import Interval, bootstrap
from oboro.detection.measure import Measure
from oboro.detection.ranking import AUPRO, AUROC, AveragePrecision, PixelAUROC, PixelAveragePrecision
from oboro.detection.threshold import F1, FalsePositiveRate, Recall

PLACES, FEWEST = 4e8, 30  # places that resamples of one metric look at, and how many resamples there are at least


@dataclass(frozen=True)
class Report:
    """Metrics by name; of each kind of anomaly against the normal samples its number, AUROC and recall; what a sample
    has cost; and everything that two numbers must share to be compared."""

    metrics: Mapping[str, Interval]
    kinds: Mapping[str, Mapping[str, Any]]
    cost: Mapping[str, float]
    protocol: Mapping[str, Any]

    @property
    def numbers(self) -> dict[str, float]:
        return {name: interval.value for name, interval in self.metrics.items()}

    def plain(self) -> dict[str, Any]:
        kinds = {
            kind: {name: asdict(v) if isinstance(v, Interval) else v for name, v in row.items()}
            for kind, row in self.kinds.items()
        }
        metrics = {name: asdict(interval) for name, interval in self.metrics.items()}
        return {"metrics": metrics, "kinds": kinds, "cost": dict(self.cost), "protocol": dict(self.protocol)}


def detection_report(
    test_set: TestSet,
    scores: Tensor,
    maps: Tensor | None,
    threshold: float,
    protocol: Mapping[str, Any],
    cost: Mapping[str, float],
    resamples: int,
) -> Report:
    """Of ``scores`` (n,) and, where places are known to be anomalous, ``maps`` (n, ...). Intervals are bootstraps over
    images within each kind. F1, recall and false positive rate are those at ``threshold``, which the test has not
    moved. ``cost`` is that of a sample, ``milliseconds`` and ``evaluations`` of networks."""
    anomalous, kinds = test_set.anomalous.numpy(), np.array(test_set.kinds)
    s = scores.double().numpy()

    def interval(measure: Measure, most: float = float("inf")) -> Interval:
        return bootstrap(measure, kinds, resamples=int(min(resamples, max(most, FEWEST))))

    decisions: Mapping[str, Callable[..., Measure]] = {"f1": F1, "recall": Recall, "fpr": FalsePositiveRate}
    metrics = {"auroc": interval(AUROC(s, anomalous)), "average_precision": interval(AveragePrecision(s, anomalous))}
    metrics |= {name: interval(kind(s, anomalous, threshold)) for name, kind in decisions.items()}
    if maps is not None and test_set.masks is not None:
        places, masks = maps.numpy(), test_set.masks.numpy()
        of_places: Mapping[str, Callable[..., Measure]] = {
            "pixel_auroc": PixelAUROC,
            "pixel_average_precision": PixelAveragePrecision,
            "aupro_0.3": AUPRO,
        }
        metrics |= {name: interval(kind(places, masks), PLACES / places.size) for name, kind in of_places.items()}
    by_kind: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(test_set.kinds):
        rows = (kinds == kind) | (kinds == GOOD)
        if kind == GOOD:
            by_kind[kind] = {"samples": int(rows.sum())}
            continue
        auroc = bootstrap(AUROC(s[rows], anomalous[rows]), kinds[rows], resamples=resamples)
        recall = Recall(s[rows], anomalous[rows], threshold)()
        by_kind[kind] = {"samples": int((kinds == kind).sum()), "auroc": auroc, "recall": recall}
    return Report(metrics, by_kind, cost, {**protocol, "threshold": threshold})
