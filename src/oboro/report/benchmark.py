"""The evaluations of a sweep beside each other: settings, cost and numbers of every job."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from oboro.base.errors import UserError
from oboro.base.settings import Settings
from oboro.report.pareto_front import pareto_front

Setting = str | int | float | None

PARTS = ("sampler", "schedule", "guidance")  # entries of a protocol that are settings
# Settings that tell nothing new where they follow from others.
FOLLOWS = {"file": ("run", "step"), "ema": ("ema_std",)}


class Number(NamedTuple):
    """A value, or the mean and the standard deviation of several ranges of samples."""

    value: float
    std: float | None = None


@dataclass(frozen=True)
class Column:
    """Numbers that compare with each other.

    Attributes:
        name: unlike that of every other column.
        metric: as the evaluations call it.
        better: -1 where smaller is better, 1 where larger is, 0 where neither.
        real: what real images score, None where that is unknown.
        real_n: how many these were.
        protocol: of the first row that has the number.
        settings: of the metric.
    """

    name: str
    metric: str
    better: int
    real: float | None
    real_n: int | None
    protocol: Mapping[str, Any]
    settings: Settings


@dataclass(frozen=True)
class Row:
    """One job: ``settings`` by name (``sampler.steps``), network evaluations and seconds of a sample, numbers; and the
    network evaluations of all training until its checkpoint, None where that is not known."""

    folder: Path
    checkpoint: str
    settings: Mapping[str, Setting]
    evaluations: float
    samples: int
    total_seconds: float
    digest: str
    numbers: Mapping[str, Number]
    training_evaluations: int | None = None

    @property
    def seconds(self) -> float:
        return self.total_seconds / self.samples

    def plain(self) -> dict[str, Any]:
        """Everything under the names that the files have; the standard deviations as ``<column>_std``."""
        numbers: dict[str, float] = {}
        for name, number in self.numbers.items():
            numbers[name] = number.value
            if number.std is not None:
                numbers[f"{name}_std"] = number.std
        return {
            "job": self.folder.name,
            "checkpoint": self.checkpoint,
            **{k: v for k, v in self.settings.items() if k not in ("run", "file")},
            "evaluations_per_sample": self.evaluations,
            "training_evaluations": self.training_evaluations,
            "samples": self.samples,
            "seconds": self.total_seconds,
            "seconds_per_sample": self.seconds,
            "digest": self.digest,
            **numbers,
        }


@dataclass(frozen=True)
class Benchmark:
    """``rows``, those of fewest evaluations first; ``columns`` by name; ``notes``, sentences that belong to them; and
    ``baselines``, what was measured beside samples, with the setting ``baseline`` alone, each once."""

    rows: Sequence[Row]
    columns: Mapping[str, Column]
    notes: Sequence[str]
    baselines: Sequence[Row] = ()

    def column(self, name: str | None = None) -> Column:
        """By name, else the first; raises ``UserError`` for a name that no column has."""
        name = next(iter(self.columns)) if name is None else name
        if name not in self.columns:
            raise UserError(f"no job has the number {name}; choose one of {', '.join(self.columns)}.")
        return self.columns[name]

    def rows_with(self, column: Column) -> list[Row]:
        """Those whose number is finite."""
        return [row for row in self.rows if column.name in row.numbers and isfinite(row.numbers[column.name].value)]

    def best(self, column: Column) -> list[Row]:
        """The rows with the best value, none where no value is better than another."""
        return self.front(column, lambda row: 0)

    def front(self, column: Column, cost: Callable[[Row], float] = lambda row: row.evaluations) -> list[Row]:
        """The rows that no other one beats in ``cost(row)`` and value, cheapest first."""
        rows = self.rows_with(column) if column.better else []
        values = [row.numbers[column.name].value for row in rows]
        return [rows[i] for i in pareto_front([cost(row) for row in rows], values, column.better)]


def varying(rows: Sequence[Row]) -> list[str]:
    """Names of the settings that tell rows apart, without those that follow from the others.

    A setting that some rows lack, as one sampler's own, varies where it differs among the others.
    """
    names = dict.fromkeys(name for row in rows for name in row.settings)
    differ = [k for k in names if len({row.settings[k] for row in rows if row.settings.get(k) is not None}) > 1]
    return [k for k in differ if not (k in FOLLOWS and follows(k, FOLLOWS[k], rows))]


def follows(name: str, others: Sequence[str], rows: Sequence[Row]) -> bool:
    """Whether rows that agree in ``others``, which all of them have, agree in ``name``."""
    pairs = {(*(row.settings.get(k) for k in others), row.settings.get(name)) for row in rows}
    return len({pair[:-1] for pair in pairs}) == len(pairs) and not any(None in pair[:-1] for pair in pairs)


def numeric(value: Setting) -> bool:
    """A name made of digits is not."""
    return value is not None and value != str(value)


def natural(value: Setting) -> tuple[int, float, str]:
    """For sorting: numbers by size, then text, then what is missing."""
    if value is None:
        return 2, 0.0, ""
    try:
        return 0, float(value), str(value)
    except ValueError:
        return 1, 0.0, str(value)
