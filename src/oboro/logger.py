"""Loggers of our own, and how evaluations reach every logger."""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from oboro.base.json_text import json_text
from oboro.base.ranges import Count
from oboro.evaluate.result import Result, protocol_line

log = logging.getLogger(__name__)


class JSONL(Logger):
    """``folder/metrics.jsonl``: one JSON object a line with ``step``, ``images``, ``seconds``, then names and values.

    ``seconds`` counts from the start of the logger; ``clock=False`` leaves it out, for numbers that another process
    adds. Values logged at the same step may come in several lines.
    """

    def __init__(self, folder: str, images_per_step: Count, clock: bool = True):
        super().__init__()
        self.clock = clock
        self.path = Path(folder) / "metrics.jsonl"
        self.images_per_step = images_per_step
        self._start = time.perf_counter()
        self._goes_on_from: int | None = None

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

    def go_on_from(self, step: int) -> None:
        """Rows after ``step`` that are in the file already, of a run that was cut off, go to
        ``metrics.superseded.jsonl`` beside it before the first new one is written."""
        self._goes_on_from = step

    def _rewind(self, step: int) -> None:
        rows = self.path.read_text().splitlines(keepends=True) if self.path.is_file() else []
        later = [row for row in rows if step_of(row) > step]
        if later:
            superseded = self.path.with_name(f"{self.path.stem}.superseded.jsonl")
            with superseded.open("a") as file:
                file.writelines(later)
            partial = self.path.with_name(f"{self.path.name}.partial")
            partial.write_text("".join(row for row in rows if step_of(row) <= step))
            os.replace(partial, self.path)
            log.info("%d rows of %s after step %d are in %s now", len(later), self.path, step, superseded.name)

    @rank_zero_only
    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line; ``values`` may hold any plain values."""
        if self._goes_on_from is not None:
            self._rewind(self._goes_on_from)
            self._goes_on_from = None
        seconds = {"seconds": round(time.perf_counter() - self._start, 3)} if self.clock else {}
        row = {"step": step, "images": step * self.images_per_step, **seconds, **values}
        self.path.parent.mkdir(parents=True, exist_ok=True)  # a run that goes on elsewhere has no folders yet
        with self.path.open("a") as file:
            file.write(json_text(row) + "\n")


def step_of(row: str) -> float:
    """The step of a line; a line that a kill left unfinished comes after all."""
    try:
        return float(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


@rank_zero_only
def log_result(loggers: Sequence[Logger], result: Result, step: int) -> None:
    """Values and protocol: a line of ``metrics.jsonl`` with both, TensorBoard's scalars and text, scalars elsewhere."""
    real = {f"real/{name}": value.real for name, value in result.values.items() if value.real is not None}
    for logger in loggers:
        match logger:
            case JSONL():
                plain = result.plain()
                known = {key: plain[key] for key in ("metrics", "protocol")}
                logger.write(step, {**result.numbers, **known, "evaluation_seconds": plain["seconds"]})
            case TensorBoardLogger():
                logger.log_metrics({**result.numbers, **real}, step)
                logger.experiment.add_text("protocol", protocol_line(result.protocol), step)
            case _:
                logger.log_metrics({**result.numbers, **real}, step)
