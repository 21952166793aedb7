"""The evaluations of a sweep beside each other: what was set, what it cost, what came out."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from oboro.base.errors import UserError
from oboro.evaluate.protocol import digest, measurement
from oboro.report.pareto import pareto_front

Setting = str | int | float | None

# A setting that says nothing new where it follows from the others.
PARTS = ("sampler", "schedule", "guidance")  # what a protocol says of how samples were drawn
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
        how: the metric and its settings.
    """

    name: str
    metric: str
    better: int
    real: float | None
    real_n: int | None
    protocol: Mapping[str, Any]
    how: str


@dataclass(frozen=True)
class Row:
    """One job: ``settings`` by name (``sampler.steps``), network evaluations and seconds of a sample, numbers."""

    folder: Path
    checkpoint: str
    settings: Mapping[str, Setting]
    evaluations: float
    samples: int
    total_seconds: float
    digest: str
    numbers: Mapping[str, Number]

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
            "samples": self.samples,
            "seconds": self.total_seconds,
            "seconds_per_sample": self.seconds,
            "digest": self.digest,
            **numbers,
        }


@dataclass(frozen=True)
class Benchmark:
    """``rows``, those of fewest evaluations first; ``columns`` by name; ``notes``, sentences that belong to them."""

    rows: Sequence[Row]
    columns: Mapping[str, Column]
    notes: Sequence[str]

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
    found = [k for k in names if len({row.settings[k] for row in rows if row.settings.get(k) is not None}) > 1]
    return [k for k in found if not (k in FOLLOWS and follows(k, FOLLOWS[k], rows))]


def follows(name: str, others: Sequence[str], rows: Sequence[Row]) -> bool:
    """Whether rows that agree in ``others``, which all of them have, agree in ``name``."""
    pairs = {(*(row.settings.get(k) for k in others), row.settings.get(name)) for row in rows}
    return len({pair[:-1] for pair in pairs}) == len(pairs) and not any(None in pair[:-1] for pair in pairs)


def collect(sweep_dir: Path) -> Benchmark:
    """The jobs ``<sweep_dir>/<job>/evaluation.json``; those without one failed, and a note counts them.

    ``<job>.attempt<k>``, what an earlier attempt at a job left behind, is passed over.

    Numbers share a column where their name, their measurement (``evaluate.protocol.measurement``) and the settings of
    their metric are the same. Where one name was measured in several ways, the names of the columns say which, and a
    note says what differs. Raises ``UserError`` where no job ended well.
    """
    folders = [p for p in sweep_dir.glob("*") if p.is_dir() and not re.search(r"\.attempt\d+$", p.name)]
    folders.sort(key=lambda p: natural(p.name))
    found = {folder: result for folder in folders if (result := read(folder)) is not None}
    if not found:
        raise UserError(
            f"no job in {sweep_dir} left an evaluation.json; see the log files there, or name another folder."
        )
    columns, notes = columns_of(list(found.values()))
    runs = distinct([Path(result.get("checkpoint", "")).parent.parts for result in found.values()])
    rows = [row_of(*job, run, columns) for job, run in zip(found.items(), runs, strict=True)]
    failed = [folder.name for folder in folders if folder.name.isdigit() and folder not in found]
    if failed:
        total = len(failed) + len(found)
        notes.insert(0, f"{len(failed)} of {total} jobs ended without an evaluation.json: {', '.join(failed)}.")
    rows.sort(key=lambda row: (row.evaluations, *map(natural, row.settings.values()), natural(row.folder.name)))
    return Benchmark(rows, {column.name: column for column in columns.values()}, notes)


def read(folder: Path) -> dict[str, Any] | None:
    """What a job wrote, None where it ended before or while it did."""
    try:
        return json.loads((folder / "evaluation.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def row_of(folder: Path, result: Mapping[str, Any], run: str, columns: Mapping[tuple, Column]) -> Row:
    """Images that were there already have no sampler and no checkpoint, and cost no evaluation."""
    protocol = result["protocol"]
    spread = result.get("repeats", {})
    settings = {
        **{k: v for part in PARTS for k, v in parsed(part, protocol.get(part, "")).items()},
        "images": protocol.get("images"),
        "run": run,
        "step": result.get("step"),
        "ema_std": result.get("ema_std") or std_of(protocol.get("ema", "")),
        "ema": protocol.get("ema"),
        "file": Path(result.get("checkpoint", "")).name,
    }
    numbers = {
        columns[key(result, name)].name: Number(judged["value"], spread.get(name, {}).get("std"))
        for name, judged in judged_of(result).items()
    }
    return Row(
        folder,
        result.get("checkpoint", ""),
        settings,
        protocol.get("evaluations_per_sample", 0),
        protocol["samples"],
        result["seconds"],
        digest(protocol),
        numbers,
    )


def judged_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All numbers of a job with what is known of each; ``value`` is the mean where there were repeats."""
    judged = result["judged"]
    return {name: {**judged[name], "value": value} for name, value in result["values"].items()} | result.get(
        "likelihood", {}
    )


def parsed(kind: str, text: str) -> dict[str, Setting]:
    """``DDIM(steps=5, eta=0.0)`` as ``{"sampler": "DDIM", "sampler.steps": 5, "sampler.eta": 0.0}``."""
    name, _, inside = text.removesuffix(")").partition("(")
    pairs = re.findall(r"(\w+)=(.*?)(?=, \w+=|$)", inside)
    return {kind: name or None, **{f"{kind}.{k}": typed(v) for k, v in pairs}}


def typed(text: str) -> Setting:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def std_of(ema: str) -> float | None:
    """The length that a profile's name gives: 0.05 of ``std005``, ``std0050``, ``std_0.05`` and ``std=0.05``."""
    match = re.fullmatch(r"std[_=]?0\.?(\d+)", ema)
    return float(f"0.{match[1]}") if match else None


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


def distinct(paths: Sequence[Sequence[str]]) -> list[str]:
    """Paths without the parts that all of them begin and end with; as they are where they are all the same."""
    if len(set(paths)) == 1:
        return [str(Path(*path)) for path in paths]
    shortest = min(map(len, paths))
    start = next((i for i in range(shortest) if len({path[i] for path in paths}) > 1), shortest)
    end = next((i for i in range(shortest - start) if len({path[-1 - i] for path in paths}) > 1), shortest - start)
    return [str(Path(*path[start : len(path) - end])) for path in paths]


def key(result: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    """What the numbers of one column share."""
    return name, digest(result["protocol"]), judged_of(result)[name].get("how", "")


def columns_of(results: Sequence[Mapping[str, Any]]) -> tuple[dict[tuple, Column], list[str]]:
    """Columns by key, in the order of their metrics, and what has to be said about them."""
    first: dict[tuple, Mapping[str, Any]] = {}
    for result in results:
        for name in judged_of(result):
            first.setdefault(key(result, name), result)
    columns: dict[tuple, Column] = {}
    ways: dict[str, list[str]] = {}
    notes = []
    for metric in dict.fromkeys(name for name, _, _ in first):
        same_name = [k for k in first if k[0] == metric]
        several_digests, several_hows = (len({k[i] for k in same_name}) > 1 for i in (1, 2))
        for k in same_name:
            judged = judged_of(first[k])[metric]
            name = metric + f"@{k[1]}" * several_digests + f"@{k[2]}" * several_hows
            real, real_n = judged.get("real"), judged.get("real_n")
            columns[k] = Column(name, metric, judged["better"], real, real_n, first[k]["protocol"], k[2])
        if len(same_name) > 1:
            ways.setdefault(differences([columns[k] for k in same_name]), []).append(metric)
        doubts = (judged_of(result).get(metric, {}).get("doubt") for result in results)
        notes += [f"{metric}: {doubt}." for doubt in dict.fromkeys(doubts) if doubt]
    measured = [f"measured in ways that do not compare: {', '.join(names)} ({what})." for what, names in ways.items()]
    return columns, measured + notes


def differences(columns: Sequence[Column]) -> str:
    """``@1a2b3c4d: seed 0; @5e6f7a8b: seed 1``: of each way to measure, what not all of them share."""
    what = [{**measurement(column.protocol), "metric": column.how} for column in columns]
    names = dict.fromkeys(name for one in what for name in one)
    differ = [name for name in names if len({json.dumps(one.get(name)) for one in what}) > 1]
    return "; ".join(
        f"{column.name.removeprefix(column.metric)}: " + ", ".join(f"{name} {one.get(name)}" for name in differ)
        for column, one in zip(columns, what, strict=True)
    )
