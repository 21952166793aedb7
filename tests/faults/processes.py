"""Real processes to which faults happen: started in a group of their own, within a hard limit of time.

Only what a test started is ever signalled: the processes of its group.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import runs

T = TypeVar("T")
ORPHANS = 10.0  # seconds in which processes may follow the first one of their group
LIMIT = 120.0  # seconds; a process that takes longer hangs


@dataclass(frozen=True)
class Ended(runs.Run):
    """A run that has ended, with the seconds that it took, and those from the fault until all of it had ended."""

    seconds: float
    seconds_after_fault: float
    orphans: tuple[int, ...]  # processes of the run that outlived the first one by more than ``ORPHANS``

    def soon(self, seconds: float) -> bool:
        """Whether all had ended ``seconds`` after the fault; on processors that are shared, as many times later."""
        share = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        return self.seconds_after_fault < seconds * share


def train(folder: Path, *overrides: str, limit: float = LIMIT, env: dict[str, str] | None = None) -> Ended:
    """``python train.py`` at toy size with its outputs in ``folder``; it may fail, but has to end within ``limit``."""
    return run("train.py", *runs.outputs(folder, *runs.toy(*overrides)), folder=folder, limit=limit, env=env)


def run(script: str, *arguments: str, folder: Path, limit: float = LIMIT, env: dict[str, str] | None = None) -> Ended:
    """``python <script> <arguments>`` in ``folder``. The test fails if it does not end by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    with started(script, *arguments, folder=folder, env=env) as process:
        begin = time.monotonic()
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            out, err = texts(folder)
            raise AssertionError(f"{script} did not end within {limit} s\n{out}\n{err}") from None
        seconds = time.monotonic() - begin
        orphans = tuple(left_after(process.pid, ORPHANS))
    out, err = texts(folder)
    met = folder / "fault.time"
    after = time.time() - met.stat().st_mtime if met.exists() else float("nan")
    return Ended(status, out, err, folder, seconds, after, orphans)


def forked(work: Callable[[], runs.Run]) -> int:
    """The status of a process that does ``work`` with the modules that are imported here, which takes no time, and so
    may be killed; less than 0: by which signal."""
    child = os.fork()
    if not child:
        status = 70
        try:
            status = work().status
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextlib.contextmanager
def started(
    script: str, *arguments: str, folder: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen]:
    """The process while it runs; its group is gone afterwards. ``stdout.txt`` and ``stderr.txt`` are in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(runs.ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    clock = str(folder / "fault.time")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "PL_", "PYTEST", "SLURM_"))}
    with (folder / "stdout.txt").open("w") as out, (folder / "stderr.txt").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, str(runs.ROOT / script), *arguments],
            cwd=folder,
            env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "FAULT_TIME": clock, **(env or {})},
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def texts(folder: Path) -> tuple[str, str]:
    return (folder / "stdout.txt").read_text(), (folder / "stderr.txt").read_text()


def until(condition: Callable[[], T], process: subprocess.Popen) -> T:
    """What ``condition`` gives once it is true, while ``process`` lives."""
    last = time.monotonic() + LIMIT
    while not (value := condition()):
        assert process.poll() is None and time.monotonic() < last, "it did not come to that"
        time.sleep(0.02)
    return value


def with_words(group: int, words: str) -> list[int]:
    """The processes of a group whose command has ``words`` in it."""
    matching = []
    for member in members(group):
        with contextlib.suppress(OSError):
            if words in (Path("/proc") / str(member) / "cmdline").read_text():
                matching.append(member)
    return matching


def left_after(group: int, seconds: float) -> list[int]:
    """The processes of a group that do not end within ``seconds``."""
    last = time.monotonic() + seconds
    while (left := list(members(group))) and time.monotonic() < last:
        time.sleep(0.1)
    return left


def members(group: int) -> Iterator[int]:
    """The processes of a group that are alive."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] not in "ZX":
                    yield int(entry.name)
