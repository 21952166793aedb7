"""Around a ``hydra.main`` function: the end of a sweep, and its failed jobs once more."""

import signal
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console

from oboro.base.command import as_typed
from oboro.base.errors import UserError
from oboro.base.grammar import values
from oboro.sweep.sweep import Sweep, print_error
from oboro.sweep.table import complaint, table

AGAIN, OPTION = "rerun_failed=", "hydra.launcher."
_sweeps: ContextVar[list[Sweep] | None] = ContextVar("sweeps", default=None)  # what ``run`` will report on


def run(main: Callable[[], None], gather: Callable[[Path], None] | None = None) -> None:
    """Call a ``hydra.main`` function; if it makes a sweep, print its table and exit with 1 unless every job is done.

    ``gather`` is called with the folder of a sweep that has a job done, and says more of it than the table would; the
    table is then printed only if a job failed.

    With ``rerun_failed=FOLDER`` on the command line the jobs of that sweep which are not done run again instead.
    A signal ends a sweep with what is known, and status 128 + its number. Raises ``UserError`` for a folder that is not
    a sweep's.
    """
    sweeps: list[Sweep] = []
    token = _sweeps.set(sweeps)
    try:
        if any(argument.startswith(AGAIN) for argument in sys.argv[1:]):
            rerun(sys.argv[1:])
        else:
            main()
    except KeyboardInterrupt as stopped:
        if not sweeps:
            raise
        print_error(f"error: {report(sweeps[-1], gather)}")
        raise SystemExit(128 + getattr(stopped, "number", signal.SIGINT)) from None
    except (Exception, SystemExit) as error:
        if not any(job.seconds is not None for sweep in sweeps for job in sweep.jobs):
            raise
        remedy = report(sweeps[-1], gather)
        if any(job.score is not None for job in sweeps[-1].jobs):
            raise
        found_nothing = "no job wrote a finite objective to its result.json; let the jobs measure one."
        raise SystemExit(f"error: {remedy or found_nothing}") from error
    finally:
        _sweeps.reset(token)
    if sweeps and (remedy := report(sweeps[-1], gather)):
        raise SystemExit(f"error: {remedy}")


def announce(sweep: Sweep) -> None:
    """Have ``run`` report on ``sweep``. Raises ``UserError`` outside of it: nobody would learn what failed."""
    sweeps = _sweeps.get()
    if sweeps is None:
        raise UserError("hydra/launcher=processes needs oboro.sweep.run; end the script with oboro.sweep.run(main).")
    sweeps.append(sweep)


def report(sweep: Sweep, gather: Callable[[Path], None] | None) -> str | None:
    """Print the table, or gather; what is to be done about failed jobs."""
    console, remedy = Console(), complaint(sweep)
    if gather is None or remedy:
        console.print(table(sweep, console.width))
    if gather is not None and any(job.done for job in sweep.jobs):
        gather(sweep.folder)
    return remedy


def rerun(arguments: list[str]) -> None:
    """Run those jobs of the sweep ``rerun_failed=FOLDER`` again that are not done, with the options it had unless
    ``hydra.launcher.<option>=...`` names others. What a job left behind is moved to ``<its folder>.attempt<k>``, unless
    it goes on with it (``resume=auto``)."""
    folder = Path(str(values(arguments, AGAIN.removesuffix("="))[0])).expanduser()
    rest = [a for a in arguments if not a.startswith(AGAIN) and a not in ("-m", "--multirun")]
    if unknown := [a for a in rest if not a.startswith(OPTION)]:
        raise UserError(f"{' '.join(unknown)} cannot go with rerun_failed, which runs jobs as they were; leave it out.")
    sweep = Sweep.load(folder)
    script = Path(sweep.command[0]).name
    if script != Path(sys.argv[0]).name:
        raise UserError(f"{folder} is a sweep of {script}; use `{as_typed(sweep.command[0])} rerun_failed={folder}`.")
    if not Path(sweep.cwd).is_dir():
        raise UserError(f"the sweep was started in {sweep.cwd}, which is gone; start a new sweep.")
    changed: dict[str, Any] = {
        o.key_or_group.removeprefix(OPTION): o.value() for o in OverridesParser.create().parse_overrides(rest)
    }
    try:
        sweep.options = replace(sweep.options, **changed)
    except TypeError as error:
        raise UserError(
            f"{' '.join(rest)} is no option of the launcher; there are parallel, gpus_per_job, timeout."
        ) from error
    announce(sweep)
    jobs = [job for job in sweep.jobs if not job.done]
    if not jobs:
        print_error(f"all {len(sweep.jobs)} jobs are done; nothing runs again")
    for job in jobs:
        if not sweep.goes_on(job):
            move_aside(sweep.folder / job.path, sweep.folder)
        job.reset()
    sweep.run(jobs)


def move_aside(folder: Path, sweep: Path) -> None:
    """Rename what a job left behind, so that its files do not mix with those of the next attempt."""
    if folder.exists() and folder != sweep:
        k = 1
        while (aside := folder.with_name(f"{folder.name}.attempt{k}")).exists():
            k += 1
        folder.rename(aside)
