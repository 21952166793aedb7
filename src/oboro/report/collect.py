"""From the folders of a sweep's jobs to a benchmark: which numbers may share a column."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from oboro.base.errors import UserError
from oboro.base.secret import visible
from oboro.base.settings import Settings, settings_text
from oboro.evaluate.protocol import digest, measurement
from oboro.evaluate.result import protocol_line, read_result
from oboro.report.benchmark import PARTS, Benchmark, Column, Number, Row, Setting, natural

LARGEST = 64_000_000  # bytes of a result
Key = tuple[str, str, str]  # name of a metric, digest of the measurement, settings of the metric as JSON


@dataclass(frozen=True)
class Job:
    """The folder of a job that ended well and its ``evaluation.json``."""

    folder: Path
    result: Mapping[str, Any]

    @property
    def protocol(self) -> Mapping[str, Any]:
        return self.result["protocol"]

    @property
    def checkpoint(self) -> str:
        """Its path; empty for images that another program drew."""
        return self.result.get("checkpoint", "")

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """All numbers with what is known of each; ``value`` is the mean where samples were drawn several times."""
        means = {name: {**self.result["metrics"][name], "value": mean} for name, mean in self.result["values"].items()}
        return means | self.result.get("likelihood", {})

    def key(self, name: str) -> Key:
        """What the numbers of one column share."""
        return name, digest(self.protocol), json.dumps(self.metrics[name].get("settings", {}), sort_keys=True)


def collect(*sweep_dirs: Path) -> Benchmark:
    """The jobs ``<sweep_dir>/<job>/evaluation.json``; those without one, or with one that is damaged or something else,
    failed, and a note counts them. Of several sweeps the jobs are those of one.

    ``<job>.attempt<k>``, what an earlier attempt at a job left behind, is passed over.

    Numbers share a column where their name, their measurement (``evaluate.protocol.measurement``) and the settings of
    their metric are the same. Where one name was measured in several ways, the names of the columns say which, and a
    note says what differs. Raises ``UserError`` where no job ended well.
    """
    folders = [p for d in sweep_dirs for p in d.glob("*") if p.is_dir() and not re.search(r"\.attempt\d+$", p.name)]
    folders.sort(key=lambda p: natural(p.name))
    jobs = [job for folder in folders if (job := read_job(folder)) is not None]
    if not jobs:
        raise UserError(
            f"no job in {', '.join(map(str, sweep_dirs))} left an evaluation.json; see the log files there, or name "
            "another folder."
        )
    columns, notes = columns_of(jobs)
    runs = distinct([Path(job.checkpoint).parent.parts for job in jobs])
    rows = [row_of(job, run, columns) for job, run in zip(jobs, runs, strict=True)]
    baselines = [row for job, run in zip(jobs, runs, strict=True) for row in baseline_rows(job, run, columns)]
    beside: dict[Any, Row] = {}
    for row in baselines:
        beside.setdefault((row.settings["baseline"], tuple(row.numbers.items())), row)
    ended = {job.folder for job in jobs}
    failed = [folder.name for folder in folders if folder.name.isdigit() and folder not in ended]
    if failed:
        total = len(failed) + len(jobs)
        notes.insert(0, f"{len(failed)} of {total} jobs ended without an evaluation.json: {', '.join(failed)}.")
    rows.sort(key=lambda row: (row.evaluations, *map(natural, row.settings.values()), natural(row.folder.name)))
    return Benchmark(rows, {column.name: column for column in columns.values()}, notes, list(beside.values()))


def read_job(folder: Path) -> Job | None:
    """None where the job ended before it wrote its result or while it did, and where the file is none of a result."""
    path = folder / "evaluation.json"
    try:
        if path.stat().st_size > LARGEST:
            return None
        job = Job(folder, printed(read_result(path)))
        check_job(job)
    except Exception:  # a file of others may hold anything in any place
        return None
    return job


def check_job(job: Job) -> None:
    """Raises whatever comes of a result that no row, column or line can be made of."""
    columns, _ = columns_of([job])
    row = row_of(job, "", columns)
    others = baseline_rows(job, "", columns)
    reals = [column.real for column in columns.values()]
    spreads = [number.std for number in row.numbers.values()]
    known = [x for x in (*reals, *spreads, row.training_evaluations) if x is not None]
    numbers = [row.evaluations, row.samples, row.total_seconds, *known]
    values = [number.value for one in (row, *others) for number in one.numbers.values()]
    if not all(isfinite(x) for x in numbers) or not all(isinstance(value, int | float) for value in values):
        raise ValueError("no numbers")
    if any(column.better not in (-1, 0, 1) for column in columns.values()) or row.samples < 1:
        raise ValueError("no metric")
    if not all(value is None or isinstance(value, str | int | float) for value in row.settings.values()):
        raise TypeError("no settings")
    protocol_line(job.protocol)


def printed(value: Any) -> Any:
    """Plain values of which every text may be printed."""
    if isinstance(value, dict):
        return {visible(key): printed(child) for key, child in value.items()}
    if isinstance(value, list):
        return [printed(child) for child in value]
    return visible(value) if isinstance(value, str) else value


def row_of(job: Job, run: str, columns: Mapping[Key, Column]) -> Row:
    """Images of another program have no sampler and no checkpoint, and cost no evaluation."""
    protocol = job.protocol
    ema = protocol.get("ema", {})
    spread = job.result.get("repeats", {})
    settings = {
        **{k: v for part in PARTS for k, v in flat(part, protocol.get(part, {"name": None})).items()},
        "images": protocol.get("images"),
        "run": run,
        "step": job.result.get("step"),
        "ema_std": ema.get("std"),
        "ema": ema.get("name"),
        "file": Path(job.checkpoint).name,
    }
    numbers = {
        columns[job.key(name)].name: Number(known["value"], spread.get(name, {}).get("std"))
        for name, known in job.metrics.items()
    }
    evaluations = protocol.get("evaluations_per_sample", 0)
    samples, seconds = protocol["samples"], job.result["seconds"]
    trained = job.result.get("training_evaluations")
    return Row(job.folder, job.checkpoint, settings, evaluations, samples, seconds, digest(protocol), numbers, trained)


def baseline_rows(job: Job, run: str, columns: Mapping[Key, Column]) -> list[Row]:
    """What was measured beside the samples of a job: rows without a sampler, which cost no evaluation."""
    row, rows = row_of(job, run, columns), []
    for name, metrics in job.result.get("baselines", {}).items():
        numbers = {columns[job.key(k)].name: Number(known["value"]) for k, known in metrics.items()}
        rows.append(replace(row, settings={"baseline": name}, evaluations=0, total_seconds=0.0, numbers=numbers))
    return rows


def flat(name: str, settings: Settings) -> dict[str, Setting]:
    """``{"sampler": "DDIM", "sampler.steps": 5, "sampler.grid": "Karras", "sampler.grid.rho": 7.0}``; a dictionary that
    describes no object, of scales by their condition, has its keys in the same way."""
    values: dict[str, Setting] = {name: settings["name"]} if "name" in settings else {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            values |= flat(f"{name}.{key}", value)
        elif key != "name":
            values[f"{name}.{key}"] = str(value) if isinstance(value, Mapping | list) else value
    return values


def distinct(paths: Sequence[Sequence[str]]) -> list[str]:
    """Paths without the parts that all of them begin and end with; as they are where they are all the same."""
    if len(set(paths)) == 1:
        return [str(Path(*path)) for path in paths]
    shortest = min(map(len, paths))
    start = next((i for i in range(shortest) if len({path[i] for path in paths}) > 1), shortest)
    end = next((i for i in range(shortest - start) if len({path[-1 - i] for path in paths}) > 1), shortest - start)
    return [str(Path(*path[start : len(path) - end])) for path in paths]


def columns_of(jobs: Sequence[Job]) -> tuple[dict[Key, Column], list[str]]:
    """Columns by key, in the order of their metrics, and the sentences that belong to them."""
    first: dict[Key, Job] = {}
    for job in jobs:
        for name in job.metrics:
            first.setdefault(job.key(name), job)
    columns: dict[Key, Column] = {}
    ways: dict[str, list[str]] = {}
    notes = []
    for metric in dict.fromkeys(name for name, _, _ in first):
        keys = [key for key in first if key[0] == metric]
        several_digests, several_settings = (len({key[i] for key in keys}) > 1 for i in (1, 2))
        for key in keys:
            known = first[key].metrics[metric]
            settings = known.get("settings", {})
            name = metric + f"@{key[1]}" * several_digests
            name += f"@{settings_text(settings)}" if several_settings and settings else ""
            real, real_n = known.get("real"), known.get("real_n")
            columns[key] = Column(name, metric, known["better"], real, real_n, first[key].protocol, settings)
        if len(keys) > 1:
            ways.setdefault(differences([columns[key] for key in keys]), []).append(metric)
        warnings = (job.metrics.get(metric, {}).get("warning") for job in jobs)
        notes += [f"{metric}: {warning}." for warning in dict.fromkeys(warnings) if warning]
    apart = [f"measured in ways that do not compare: {', '.join(names)} ({way})." for way, names in ways.items()]
    return columns, apart + notes


def differences(columns: Sequence[Column]) -> str:
    """``@1a2b3c4d: seed 0; @5e6f7a8b: seed 1``: of each measurement what not all of them share."""
    measurements = [
        {**measurement(column.protocol), "metric": settings_text(column.settings) if column.settings else ""}
        for column in columns
    ]
    names = dict.fromkeys(name for one in measurements for name in one)
    differ = [name for name in names if len({json.dumps(one.get(name)) for one in measurements}) > 1]
    return "; ".join(
        f"{column.name.removeprefix(column.metric)}: " + ", ".join(f"{name} {one.get(name)}" for name in differ)
        for column, one in zip(columns, measurements, strict=True)
    )
