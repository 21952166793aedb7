"""``metrics.jsonl``, the record of a run."""

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from oboro.base.json_text import json_text, read_json
from oboro.base.ranges import Count
from oboro.base.remark import remark

log = logging.getLogger(__name__)
NAME = "metrics.jsonl"
MOST_HELD = 100_000  # rows that wait for room on the disk


class JSONL(Logger):
    """``folder/metrics.jsonl``: one JSON object a line with ``step``, ``images``, ``seconds``, then names and values.

    ``seconds`` counts from the start of the logger, and goes on where a resumed run left off; ``clock=False`` leaves it
    out, for numbers that another process adds. Values logged at the same step may come in several lines. A line that a
    kill left unfinished stays one of its own. Rows that the disk does not take are held, and written once it does. A
    row that a run has written before it was killed, and writes again when it goes on, is there once.
    """

    def __init__(self, folder: str, images_per_step: Count, clock: bool = True):
        super().__init__()
        self.clock = clock
        self.path = Path(folder) / NAME
        self.images_per_step = images_per_step
        self._start = time.perf_counter()
        self._before = 0.0  # seconds of the run before this process
        self._goes_on_from: int | None = None
        self._held: list[bytes] = []
        self._before_going_on: set[str] = set()  # rows of the step that the run goes on from
        self._failed = False

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any) -> None:
        """The configuration lies beside the file, in ``.hydra``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {k: float(v) for k, v in metrics.items() if k != "epoch"}
        if step is not None and values:
            self.write(step, values)

    def go_on_from(self, step: int, former: Path | None = None) -> None:
        """Rows after ``step`` that are in the file already, of a run that was cut off, go to
        ``metrics.superseded.jsonl`` beside it before the first new one is written. ``seconds`` goes on from the last
        row that stays, or, in a new folder, from that of the run in the folder ``former``."""
        self._goes_on_from, self._start = step, time.perf_counter()
        self._held = [row for row in self._held if step_of(row) <= step]
        self._before_going_on = {without_clock(row) for row in read_rows(self.path) if row.get("step") == step}
        self._before = last_seconds(self.path, step) or last_seconds((former or self.path.parent) / NAME, step)

    def _rewind(self, step: int) -> None:
        rows = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        later = [row for row in rows if step_of(row) > step]
        if later:
            superseded = self.path.with_name(f"{self.path.stem}.superseded.jsonl")
            with superseded.open("ab") as file:
                file.writelines(row.rstrip(b"\n") + b"\n" for row in later)
            partial = self.path.with_name(f"{self.path.name}.partial")
            partial.write_bytes(b"".join(row for row in rows if step_of(row) <= step))
            os.replace(partial, self.path)
            log.info("%d rows of %s after step %d are in %s now", len(later), self.path, step, superseded.name)

    @rank_zero_only
    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line; ``values`` may hold any plain values."""
        seconds = {"seconds": round(self._before + time.perf_counter() - self._start, 3)} if self.clock else {}
        row = {"step": step, "images": step * self.images_per_step, **seconds, **values}
        if self._before_going_on and without_clock(row) in self._before_going_on:
            return
        self._held.append(json_text(row).encode() + b"\n")
        del self._held[:-MOST_HELD]
        self._append()

    def _append(self) -> None:
        try:
            if self._goes_on_from is not None:
                self._rewind(self._goes_on_from)
                self._goes_on_from = None
            self.path.parent.mkdir(parents=True, exist_ok=True)  # a run that goes on elsewhere has no folders yet
            append_lines(self.path, self._held)
        except OSError as error:
            self._cannot(error)

    def _cannot(self, error: OSError) -> None:
        if not self._failed:
            remark(f"{self.path} cannot be written ({error.strerror}): training goes on, and rows wait until it can")
        self._failed = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is held. A warning with the number of rows that are lost."""
        if self._held:
            self._append()
        if self._held:
            log.warning("%d rows of %s are lost, since it cannot be written", len(self._held), self.path)


def append_lines(path: Path, lines: list[bytes]) -> None:
    """Append ``lines``, each of which leaves the list once it is whole in the file. Raises ``OSError``."""
    with path.open("ab+", buffering=0) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        else:
            torn = False
        text = b"\n" * torn + b"".join(lines)
        while text:
            written = file.write(text) - torn
            while lines and written >= len(lines[0]):
                written -= len(lines.pop(0))
            torn = written > 0
            text = b"\n" * torn + b"".join(lines)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``, without lines that a kill left unfinished; none where there is no file."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [row for line in lines if (row := _row(line)) is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = read_json(line.decode())
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def without_clock(row: Mapping[str, Any]) -> str:
    """What a row says, whenever it was written."""
    return json_text({key: value for key, value in row.items() if not key.endswith("seconds")}, sort_keys=True)


def step_of(line: bytes) -> float:
    """The step of a line; a line that a kill left unfinished comes after all."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def last_seconds(path: Path, step: int) -> float:
    """The largest ``seconds`` of the rows up to ``step``; 0 where none has it."""
    rows = (row for row in read_rows(path) if row.get("step", step + 1) <= step)
    return max((row["seconds"] for row in rows if isinstance(row.get("seconds"), int | float)), default=0.0)
