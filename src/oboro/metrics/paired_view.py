"""The part of paired metrics in an evaluation: what they remember of each sample, and the numbers that come of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.precision import WITHOUT_FLOAT64
from oboro.metrics.metric import Value
from oboro.metrics.paired import NEEDS, Given, Groups, Paired
from oboro.modality import Modality


class PairedView:
    """``metrics`` by the name of their options."""

    def __init__(self, metrics: Mapping[str, Paired]):
        self.metrics = metrics

    def __bool__(self) -> bool:
        return bool(self.metrics)

    def check(self, known: set[str], modality: Modality) -> None:
        """Raises ``UserError`` for a metric that needs what is not ``known``, or that cannot compare such samples."""
        for name, metric in self.metrics.items():
            for need in (need for need in NEEDS if need in metric.needs and need not in known):
                what, remedy = NEEDS[need]
                raise UserError(f"{name} needs {what}; {remedy}, or leave {name} out of metrics=[...].")
            metric.check(modality)

    @property
    def width(self) -> int:
        return sum(metric.width for metric in self.metrics.values())

    def rows(self, samples: Tensor, given: Given, modality: Modality) -> Tensor:
        """What there is to remember of stored ``samples`` (B, C, H, W): (B, ``width``), float32, on their device."""
        device = torch.device("cpu") if samples.device.type in WITHOUT_FLOAT64 else samples.device
        x, given = modality.to_model(samples.to(device)), given.to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            rows = [metric.rows(x, given).float() for metric in self.metrics.values()]
        return torch.cat(rows, 1).to(samples.device)

    def values(self, rows: Tensor, groups: Groups) -> dict[str, Value]:
        """``{full name: value}`` of the rows (n, ``width``): ``psnr_hole_500``.

        Raises ``UserError`` that names the metric where a number does not exist.
        """
        values: dict[str, Value] = {}
        for (option, metric), part in zip(self.metrics.items(), self._parts(rows), strict=True):
            try:
                made = metric.values(part, groups)
            except ValueError as error:
                raise UserError(f"{option} is undefined: {error}; leave it out of metrics=[...].") from error
            values |= {f"{short}_{len(rows)}": value for short, value in made.items()}
        return values

    def values_beside(self, rows: Tensor, samples: Tensor, groups: Groups) -> dict[str, Value]:
        """``values`` of a baseline with the gain of the rows of ``samples`` for the same conditions:
        ``detail["gain"]``."""
        above = self.gains(samples, rows, groups)
        return {
            name: replace(value, detail={**value.detail, "gain": above[name]}) if name in above else value
            for name, value in self.values(rows, groups).items()
        }

    def gains(self, rows: Tensor, others: Tensor, groups: Groups) -> dict[str, dict[str, Any]]:
        """By full name the mean of ``rows`` - ``others`` with its 95 % interval: narrower than those of the two means,
        since what is difficult is so for both. For numbers that are one for each sample."""
        found: dict[str, dict[str, Any]] = {}
        for metric, a, b in zip(self.metrics.values(), self._parts(rows), self._parts(others), strict=True):
            for k, short in enumerate(metric.names if metric.width == len(metric.names) else ()):
                if (a[:, k] - b[:, k]).isfinite().any():
                    value = metric.mean(a[:, k] - b[:, k], groups.picture)
                    interval = {} if value.interval is None else {"interval": value.interval}
                    found[f"{short}_{len(rows)}"] = {"value": value.value, **interval}
        return found

    def _parts(self, rows: Tensor) -> Sequence[Tensor]:
        return rows.split([metric.width for metric in self.metrics.values()], 1)
