"""The table at the end of a sweep."""

import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from oboro.base.command import as_typed
from oboro.base.secret import visible
from oboro.sweep.job import RUNNING, STOPPED, WAITING, readable
from oboro.sweep.sweep import Sweep

LONGEST = 300  # characters of a reason that are shown
REST = 32  # characters of a row besides overrides and metrics
ROOM = 20  # characters of an override that may keep metrics from having columns


def table(sweep: Sweep, width: int) -> Group:
    """A row a job, then why jobs failed, then where they are.

    Metrics have columns, the objective the first one, or a line each where ``width`` is too small for that.
    """
    objectives = [job.objective for job in sweep.jobs if job.objective]
    names = list(dict.fromkeys([*objectives, *(name for job in sweep.jobs for name in job.values)]))
    values = [{name: f"{job.values[name]:.4g}" for name in names if name in job.values} for job in sweep.jobs]
    lines = ["\n".join(map(" ".join, v.items())) for v in values]
    needed = sum(max(len(name), 9) + 3 for name in names)
    longest = max((len(readable(override)) for job in sweep.jobs for override in job.varied), default=0)
    apart = needed <= width - REST - min(longest, ROOM)
    if not apart:
        names, needed = ["metrics"], max((len(line) for text in lines for line in text.splitlines()), default=0) + 3
    numbered = all(job.path == str(job.number) for job in sweep.jobs)  # as the shipped configuration has it
    rows = empty(names, numbered)
    for job, numbers, text in zip(sweep.jobs, values, lines, strict=True):
        overrides = [broken(readable(override), width - REST - needed) for override in job.varied]
        status = job.status.replace(" by ", " by\n")
        metrics = [numbers.get(name, "") for name in names] if apart else [text]
        seconds = "" if job.seconds is None else f"{job.seconds:.1f}"
        folder = [] if numbered else [Text(job.path)]
        rows.add_row(str(job.number), Text(visible(" ".join(overrides))), status, *map(Text, metrics), seconds, *folder)
    reasons = [Text(visible(f"{job.number} {short(job.outcome)}")) for job in sweep.jobs if job.reason]
    return Group(rows, *reasons, Text(f"folders: {shown(sweep.folder)}/{'<job>' if numbered else '<folder>'}"))


def empty(metrics: list[str], numbered: bool) -> Table:
    """The columns; one for the folders where they are more than the numbers of the jobs."""
    numbers: dict[str, Any] = {"justify": "right", "no_wrap": True}
    table = Table(Column("job", **numbers), Column("varied", overflow="fold"), Column("status", no_wrap=True))
    for name in [*metrics, "seconds"]:
        table.add_column(Text(name), **numbers)
    if not numbered:
        table.add_column("folder", overflow="fold")
    return table


def broken(override: str, width: int) -> str:
    """In two lines, key and value, if it is too long for one."""
    return override if len(override) <= width else override.replace("=", "=\n", 1)


def short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def shown(folder: Path) -> str:
    """``folder`` as a user would type it: relative where it lies below the current folder."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def again(sweep: Sweep) -> str:
    return f"`{as_typed(sys.argv[0])} rerun_failed={shlex.quote(shown(sweep.folder))}`"


def complaint(sweep: Sweep) -> str | None:
    """One line with the remedy; None if all jobs are done."""
    rest = [job for job in sweep.jobs if not job.done]
    if not rest:
        return None
    if any(job.status in (WAITING, RUNNING, STOPPED) for job in rest):
        done = len(sweep.jobs) - len(rest)
        return f"the sweep was stopped with {done} of {len(sweep.jobs)} jobs done; run the rest with {again(sweep)}."
    return (
        f"{len(rest)} of {len(sweep.jobs)} jobs failed, job {rest[0].number} first ({short(rest[0].outcome)}); "
        f"run them again with {again(sweep)}."
    )
