"""The jobs of a sweep: which run, in which order, and what is written down about them."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from oboro.base.errors import UserError
from oboro.base.grammar import quoted
from oboro.base.json_text import json_text, read_json
from oboro.base.secret import visible
from oboro.sweep.job import DONE, LOG, RESULT, RUNNING, STOPPED, TIMED_OUT, Job, readable, verdict
from oboro.sweep.process import Process, environment, free_port, program

ACCOUNT = "jobs.json"
GOES_ON = "resume=auto"
INTERVAL = 0.05  # seconds between two looks at the running jobs


@dataclass(frozen=True)
class Options:
    """``parallel`` jobs at once, each with ``gpus_per_job`` GPUs of its own (0: whatever it sees) and killed after
    ``timeout`` seconds (None: never). Raises ``UserError`` for values that mean nothing."""

    parallel: int = 1
    gpus_per_job: int = 0
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.parallel < 1 or self.gpus_per_job < 0 or (self.timeout is not None and self.timeout <= 0):
            raise UserError(
                f"hydra.launcher has parallel={self.parallel}, gpus_per_job={self.gpus_per_job}, timeout="
                f"{self.timeout}; set parallel to 1 or more, gpus_per_job to 0 or more, timeout to seconds or null."
            )

    def devices(self, slot: int) -> list[str]:
        """The GPUs of slot ``slot``, the next ``gpus_per_job`` of those that are visible; names none for 0."""
        needed = self.parallel * self.gpus_per_job
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(i) for i in range(needed)] if visible is None else [v for v in visible.split(",") if v.strip()]
        if needed > len(names):
            raise UserError(
                f"{self.parallel} jobs of {self.gpus_per_job} GPUs need {needed}, and CUDA_VISIBLE_DEVICES={visible} "
                f"has {len(names)}; lower hydra.launcher.parallel or hydra.launcher.gpus_per_job."
            )
        return names[slot * self.gpus_per_job : (slot + 1) * self.gpus_per_job]


class Sweep:
    """Runs jobs and keeps ``folder/jobs.json`` true, whatever happens to them or to this process.

    ``command`` is the command line of the sweep, ``cwd`` the folder it was typed in, ``arguments`` what its jobs share
    besides their overrides. A lock on ``folder/.lock``, which the jobs hold too, keeps two sweeps from one folder;
    ``UserError`` if it is taken.
    """

    def __init__(
        self, folder: Path, command: list[str], cwd: str, arguments: list[str], options: Options, jobs: Sequence[Job]
    ):
        self.folder, self.command, self.cwd, self.arguments = folder.absolute(), command, cwd, arguments
        self.options, self.jobs = options, list(jobs)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.folder / ".lock")
        self._before = jobs_in(self.folder / ACCOUNT)

    @classmethod
    def load(cls, folder: Path) -> "Sweep":
        """The sweep of a ``jobs.json``. Raises ``UserError`` if there is none."""
        try:
            account = read_json((folder / ACCOUNT).read_bytes())
            jobs = [Job(**row) for row in account.pop("jobs")]
            return cls(folder, jobs=jobs, options=Options(**account.pop("options")), **account)
        except FileNotFoundError as error:
            raise UserError(
                f"there is no {folder / ACCOUNT}; give rerun_failed= the folder of a sweep, its hydra.sweep.dir."
            ) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{folder / ACCOUNT} is not the account of a sweep; give another folder.") from error

    def add(self, jobs: Sequence[Job]) -> None:
        """More jobs. Raises ``UserError`` if two have one folder, or if one would go on with what another left."""
        for job in jobs:
            before = self._before.get(job.path)
            if before is not None and self.goes_on(job) and values_of(before, job) != values_of(job, before):
                raise UserError(
                    f"job {job.number} had {values_of(before, job)} and would go on with {values_of(job, before)}; "
                    "give the values in the same order, or choose another folder with hydra.sweep.dir=<folder>"
                )
        self.jobs += jobs
        paths = [os.path.normpath(job.path) for job in self.jobs]
        if shared := [path for path in paths if paths.count(path) > 1]:
            raise UserError(f"jobs share the folder {shared[0]}; put ${{hydra.job.num}} into hydra.sweep.subdir.")

    def goes_on(self, job: Job) -> bool:
        """Whether a job goes on with what it finds in its folder, which it is to keep."""
        return GOES_ON in (*self.arguments, *job.overrides)

    def write(self) -> None:
        """Replace ``jobs.json`` in one step: whoever reads it, and whenever, finds all of it."""
        account = {
            "command": self.command,
            "cwd": self.cwd,
            "arguments": self.arguments,
            "options": asdict(self.options),
            "jobs": [asdict(job) for job in self.jobs],
        }
        beside = self.folder / f"{ACCOUNT}.new"
        beside.write_text(json_text(account, indent=2) + "\n")
        beside.replace(self.folder / ACCOUNT)

    def run(self, jobs: Sequence[Job]) -> None:
        """Run ``jobs``, which belong to this sweep, whatever becomes of each; a signal has them end in order and raises
        ``Stopped``, a second one kills them."""
        self.options.devices(0)  # raises before anything starts if there are too few
        waiting, running = deque(jobs), dict[int, tuple[Job, Process]]()
        self.write()
        with interruptible():
            try:
                while waiting or running:
                    while waiting and len(running) < self.options.parallel:
                        slot = min(set(range(self.options.parallel)) - set(running))
                        ports = {process.port for _, process in running.values()}
                        job = waiting.popleft()
                        running[slot] = job, self._start(job, slot, ports)
                    time.sleep(INTERVAL)
                    for slot, (job, process) in list(running.items()):
                        if self._ended(job, process):
                            del running[slot]
            finally:
                self._stop(list(running.values()))

    def _stop(self, running: Sequence[tuple[Job, Process]]) -> None:
        try:
            while any(process.alive for _, process in running):
                for _, process in running:
                    process.terminate()
                time.sleep(INTERVAL)
        finally:
            for job, process in running:
                code = process.kill()
                if job.status == RUNNING:
                    self._end(job, process, DONE if code == 0 else STOPPED, None)

    def _start(self, job: Job, slot: int, ports: set[int]) -> Process:
        folder = self.folder / job.path
        folder.mkdir(parents=True, exist_ok=True)
        if self.goes_on(job):
            keep(folder / LOG)
        else:
            (folder / RESULT).unlink(missing_ok=True)
        here = ["hydra.mode=RUN", f"hydra.job.num={job.number}", f"hydra.job.id={job.number}"]
        command = [*program(), *self.arguments, *job.overrides, *here, f"hydra.run.dir={quoted(str(folder))}"]
        variables = environment(free_port(ports), self.options.devices(slot))
        job.status = RUNNING
        self.write()
        print_error(f"[{job.number}] {' '.join(map(readable, job.varied)) or 'as given'}")
        return Process(command, folder, Path(self.cwd), variables, self._lock.fileno())

    def _ended(self, job: Job, process: Process) -> bool:
        code, limit = process.ended(), self.options.timeout
        if code is not None:
            timed_out = process.terminated and code != 0
            how = (TIMED_OUT, f"after {limit:g} s") if timed_out else verdict(code, process.folder / LOG)
            self._end(job, process, *how)
            return True
        if limit is not None and process.alive and process.seconds > limit:
            process.terminate()
        return False

    def _end(self, job: Job, process: Process, status: str, reason: str | None) -> None:
        job.end(status, reason, process.seconds, process.folder)
        self.write()
        score = f", {job.objective} {job.score:.4g}" if job.score is not None else ""
        print_error(f"[{job.number}] {job.outcome} ({job.seconds:.1f} s{score})")


def jobs_in(account: Path) -> dict[str, Job]:
    """The jobs of a ``jobs.json`` by their folders; none where there is none."""
    try:
        return {row["path"]: Job(**row) for row in read_json(account.read_text())["jobs"]}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def values_of(job: Job, other: Job) -> str:
    """What ``job`` has of the keys that it and ``other`` vary."""
    varied = {override.partition("=")[0] for override in (*job.varied, *other.varied)}
    return " ".join(override for override in job.overrides if override.partition("=")[0] in varied)


def keep(log: Path) -> None:
    """Rename the log of an earlier attempt: ``output.1.log``, ``output.2.log``."""
    if log.exists():
        k = 1
        while (older := log.with_suffix(f".{k}{log.suffix}")).exists():
            k += 1
        log.rename(older)


def locked(path: Path) -> IO[str]:
    """The file at ``path``, locked while it is open here or in a job. Raises ``UserError`` if somebody else has it."""
    import fcntl  # not on Windows, where single runs do without

    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"a sweep, or a job that one left behind, is still running in {path.parent}; wait for it or end it, or "
            "choose another folder with hydra.sweep.dir=..."
        ) from error
    except OSError:  # a file system without locks: then there is none
        pass
    return file


def print_error(line: str) -> None:
    print(visible(line), file=sys.stderr, flush=True)


class Stopped(KeyboardInterrupt):
    """The signal ``number`` ended a sweep."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal raise ``Stopped`` in the block, each time: jobs have sessions of their own
    and would live on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    all_of_them = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handled = [s for s in all_of_them if signal.getsignal(s) not in (signal.SIG_IGN, None)]  # ignored by nohup
    before = {s: signal.signal(s, stop) for s in handled}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
