"""A job of a sweep: what is known of it."""

import math
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path

from oboro.base.json_text import read_json
from oboro.base.secret import visible

WAITING, RUNNING, DONE, FAILED, TIMED_OUT, STOPPED = "waiting", "running", "done", "failed", "timed out", "stopped"
LOG, RESULT = "output.log", "result.json"
TAIL = 100_000  # bytes of a log in which an error is looked for


@dataclass
class Job:
    """A row of ``jobs.json``.

    ``overrides`` are the sweeper's, ``varied`` those of them that the command line did not fix, ``path`` is relative to
    the sweep's folder. ``values`` and ``objective`` are what the job wrote to ``result.json`` in its own folder,
    ``{"values": {name: number}, "objective": name}``: its last metrics, and the name of the one a search optimises.
    """

    number: int
    overrides: list[str]
    varied: list[str]
    path: str
    status: str = WAITING
    reason: str | None = None
    seconds: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    objective: str | None = None

    @property
    def done(self) -> bool:
        return self.status == DONE

    @property
    def outcome(self) -> str:
        """The status, with the reason where there is one."""
        return f"{self.status}: {self.reason}" if self.reason else self.status

    @property
    def score(self) -> float | None:
        """The value of the objective, if it is a finite number: what a search can go by."""
        score = self.values.get(self.objective) if self.objective else None
        return score if score is not None and math.isfinite(score) else None

    def reset(self) -> None:
        """Forget how it went."""
        self.status, self.reason, self.seconds, self.values, self.objective = WAITING, None, None, {}, None

    def end(self, status: str, reason: str | None, seconds: float, folder: Path) -> None:
        """Take down how the job ended, and what it left in ``folder``."""
        self.status, self.reason, self.seconds = status, reason, round(seconds, 1)
        try:
            self.values, self.objective = read_result(folder / RESULT)
        except ValueError as error:
            if self.done:
                self.status, self.reason = FAILED, str(error)


def readable(override: str) -> str:
    """With four digits where a search drew seventeen."""
    key, equals, value = override.partition("=")
    return f"{key}={float(value):.4g}" if re.fullmatch(r"-?\d+\.\d{6,}(e-?\d+)?", value) else key + equals + value


def read_result(path: Path) -> tuple[dict[str, float], str | None]:
    """Values and objective of a ``result.json``, nothing if there is none. Raises ``ValueError`` if it is malformed."""
    if not path.is_file():
        return {}, None
    try:
        content = read_json(path.read_bytes())
        values, objective = {visible(k): float(v) for k, v in content["values"].items()}, content.get("objective")
        objective = objective if objective is None else visible(objective)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path.name} is not {{values: {{name: number}}, objective: name}}") from error
    if objective is not None and objective not in values:
        raise ValueError(f"{path.name} names the objective {objective} and has no value of it")
    return values, objective


def verdict(code: int, log: Path) -> tuple[str, str | None]:
    """Status and reason of a process that ended with ``code``, as ``subprocess`` counts: -9 is SIGKILL, and 143 is what
    a program that SIGTERM ended in order says."""
    if code == 0:
        return DONE, None
    if code - 128 in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        return f"ended by {signal.Signals(code - 128).name}", None
    error = last_error(log)
    if code > 0:
        return FAILED, error or f"exit status {code}"
    names = {s.value: s.name for s in signal.Signals}
    return f"killed by {names.get(-code, -code)}", error


def last_error(log: Path) -> str | None:
    """The last line of a log that is an ``error: ...`` or ends a traceback, whichever rank wrote it."""
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    error, in_traceback = None, False
    for line in lines:
        line = re.sub(r"^\[rank\d+\]: ?", "", line)
        if line.startswith("Traceback (most recent call last)"):
            in_traceback = True
        elif line.startswith("error: "):
            error, in_traceback = line.removeprefix("error: "), False
        elif in_traceback and line.strip() and not line.startswith(" "):
            error, in_traceback = line, False
    return error
