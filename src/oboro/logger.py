"""Loggers of our own."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class JSONL(Logger):
    """``folder/metrics.jsonl``: one JSON object a line with ``step``, ``images``, ``seconds``, then names and values.

    ``seconds`` counts from the first line's logger on. Values logged at the same step may come in several lines.
    """

    def __init__(self, folder: str, images_per_step: int):
        super().__init__()
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
        if step is None or not values:
            return
        row = {
            "step": step,
            "images": step * self.images_per_step,
            "seconds": round(time.perf_counter() - self._start, 3),
            **values,
        }
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
