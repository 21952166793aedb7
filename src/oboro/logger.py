"""Loggers of our own, and how evaluations reach every logger."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from oboro.base.json_text import json_text
from oboro.base.ranges import Count
from oboro.evaluate.result import Result, protocol_line


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

    @rank_zero_only
    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line; ``values`` may hold any plain values."""
        seconds = {"seconds": round(time.perf_counter() - self._start, 3)} if self.clock else {}
        row = {"step": step, "images": step * self.images_per_step, **seconds, **values}
        with self.path.open("a") as file:
            file.write(json_text(row) + "\n")


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
