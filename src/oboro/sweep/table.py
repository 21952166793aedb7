"""What a sweep says at its end."""

import shlex
import sys
from pathlib import Path

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from oboro.sweep.job import RUNNING, STOPPED, WAITING, readable
from oboro.sweep.sweep import Sweep

LONGEST = 300  # characters of a reason that are shown
WIDEST = 30  # characters of an override that are kept together
REST = 32  # characters of a row besides overrides and metrics


def table(sweep: Sweep, width: int) -> Group:
    """A row a job, then why jobs failed, then where they are.

    Metrics have columns, the objective the first one, or a line each where ``width`` is too small for that.
    """
    objectives = [job.objective for job in sweep.jobs if job.objective]
    names = list(dict.fromkeys([*objectives, *(name for job in sweep.jobs for name in job.values)]))
    varied = [[readable(override) for override in job.varied] for job in sweep.jobs]
    longest = min(WIDEST, max((len(o) for overrides in varied for o in overrides), default=0))
    apart = sum(len(name) + 3 for name in names) <= width - REST - longest
    numbered = all(job.path == str(job.number) for job in sweep.jobs)  # as the shipped configuration has it
    right = {"justify": "right", "no_wrap": True}
    rows = Table(Column("job", **right), Column("varied", overflow="fold"), Column("status", no_wrap=True))
    for name in names if apart else ["metrics"]:
        rows.add_column(name, **right)
    rows.add_column("seconds", **right)
    if not numbered:
        rows.add_column("folder", overflow="fold")
    for job, overrides in zip(sweep.jobs, varied, strict=True):
        values = {name: f"{job.values[name]:.5g}" for name in names if name in job.values}
        metrics = [values.get(name, "") for name in names] if apart else ["\n".join(map(" ".join, values.items()))]
        seconds = "" if job.seconds is None else f"{job.seconds:.1f}"
        folder = [] if numbered else [Text(job.path)]
        status = job.status.replace(" by ", " by\n")
        rows.add_row(str(job.number), Text(" ".join(overrides)), status, *metrics, seconds, *folder)
    reasons = [Text(f"{job.number} {short(job.outcome)}") for job in sweep.jobs if job.reason]
    return Group(rows, *reasons, Text(f"folders: {shown(sweep.folder)}/{'<job>' if numbered else '<folder>'}"))


def short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def shown(folder: Path) -> str:
    """``folder`` as a user would type it: relative where it lies below the current folder."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def again(sweep: Sweep) -> str:
    return f"`python {sys.argv[0]} rerun_failed={shlex.quote(shown(sweep.folder))}`"


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
