"""A detector at work on many samples."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from oboro.base.finite import check_finite
from oboro.base.memory import Parts
from oboro.condition import Condition
from oboro.detection.calibration import Pooling
from oboro.detector.detector import Detector, Pictures
from oboro.evaluate.counting import counted
from oboro.modality import Modality
from oboro.task import Generation, Task

Done = Callable[[int], None]


@dataclass
class Cost:
    """What ``samples`` have cost so far."""

    samples: int = 0
    seconds: float = 0.0
    evaluations: int = 0

    @property
    def milliseconds(self) -> float:
        """Of a sample."""
        return 1000 * self.seconds / max(self.samples, 1)

    @property
    def evaluations_per_sample(self) -> float:
        return self.evaluations / max(self.samples, 1)

    def plain(self) -> dict[str, float]:
        return {"milliseconds": self.milliseconds, "evaluations": self.evaluations_per_sample}


class Inspection:
    """Maps of stored samples, in chunks of one shape, by the current weights of ``task``.

    Sample i has the noise of (``seed``, i): what is found of it depends on neither its chunk nor the other samples.
    """

    def __init__(
        self,
        detector: Detector,
        task: Task | None,
        modality: Modality,
        pooling: Pooling,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
        seed: int,
        chunk: int,
    ):
        self.detector, self.task, self.modality, self.pooling = detector, task, modality, pooling
        self.device, self.autocast, self.seed, self.chunk = device, autocast, seed, chunk
        self.parts = Parts()
        self.cost = Cost()

    @property
    def networks(self) -> Sequence[torch.nn.Module]:
        if isinstance(self.task, Generation):
            return [self.task.denoiser.network, *self.task.guidance.networks]
        return []

    @torch.no_grad()
    def maps(self, samples: Tensor, first: int = 0, done: Done = lambda n: None) -> Tensor:
        """Smoothed maps (n, K, ...), or numbers (n, K), float32 on the CPU, of stored ``samples`` (n, C, ...), the
        first of which has the number ``first``. Raises ``UserError`` for those that are no numbers."""
        n, made = len(samples), []
        for start in range(0, n, self.chunk):
            rows = list(range(start, min(start + self.chunk, n)))
            made.append(self._chunk(samples, rows, first))
            done(rows[-1] + 1)
        maps = torch.cat(made)
        check_finite(maps, "anomaly maps", "the model has diverged, take an earlier checkpoint or precision=32-true")
        return maps

    def _chunk(self, samples: Tensor, rows: list[int], first: int) -> Tensor:
        begun = time.perf_counter()
        padded = [*rows, *[rows[-1]] * (self.chunk - len(rows))]

        def found(part: list[int]) -> Tensor:
            x = self.modality.to_model(samples[part].to(self.device))
            pictures = Pictures(x, [first + i for i in part], self.seed, Condition())
            with self.autocast():
                return self.detector(self.task, pictures).float().cpu()

        with counted(self.networks) as count:
            maps = self.parts.rows(found, padded)[: len(rows)]
        maps = self.pooling.smoothed(maps)
        self.cost.samples += len(rows)
        self.cost.seconds += time.perf_counter() - begun
        self.cost.evaluations += round(count() * len(rows) / len(padded))
        return maps
