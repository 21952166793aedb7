"""A picture of what the model draws."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from lightning import Trainer
from torch import Tensor

from oboro.base import distributed
from oboro.base.errors import UserError
from oboro.base.ranges import Count, CountOrNone, Seed
from oboro.callbacks.evaluation import SampleEvaluation, spared
from oboro.logger import log_picture
from oboro.report.pictures import hints_shown, samples_picture
from oboro.task import Generation


class SampleGrid(SampleEvaluation):
    """Samples 0..n-1 of the averaged weights at a fixed seed, class i mod num_classes or text i mod their number:
    ``folder/step-XXXXXXXX.png`` and TensorBoard's ``samples``."""

    def __init__(
        self,
        folder: str,
        every_n_steps: CountOrNone,
        n: Count = 64,
        seed: Seed = 0,
        chunk: Count = 100,
        stop_on_error: bool = True,
    ):
        super().__init__(every_n_steps)
        self.stop_on_error = stop_on_error
        if n < 1 or chunk < 1:
            raise UserError(
                f"{n} samples in chunks of {chunk} make no picture; set callbacks.sample_grid.n=1 or more and "
                "callbacks.sample_grid.chunk=1 or more."
            )
        self.folder = Path(folder)
        self.n = n
        self.seed = seed
        self.chunk = min(chunk, n)

    @property
    def samples(self) -> int:
        return self.n

    @property
    def chunk_size(self) -> int:
        return max(self.chunk // 4, 1)

    @contextmanager
    def of(self, samples: int) -> Iterator[None]:
        whole, self.n = self.n, samples
        try:
            yield
        finally:
            self.n = whole

    def evaluate(self, trainer: Trainer, task: Generation) -> None:
        modality = trainer.datamodule.modality

        def draw(ids: list[int]) -> Tensor:
            with trainer.precision_plugin.forward_context():
                cond = task.conditioner.for_samples(ids, None)
                return modality.to_stored(task.generate(ids, self.seed, cond, modality.shape))

        with task.averaged():
            samples = distributed.map_samples(self.n, self.chunk, draw, task.device)
        if trainer.is_global_zero:
            texts = task.conditioner.metadata(range(self.n), None).get("caption")
            hints = hints_shown(modality, task.conditioner.pictures(range(self.n)))
            picture = samples_picture(modality, samples, texts, task.conditioner.num_classes, hints)
            path = self.folder / f"step-{trainer.global_step:08d}.png"
            with spared(f"the picture {path}"):
                self.folder.mkdir(parents=True, exist_ok=True)
                picture.save(path)
            log_picture(trainer.loggers, "samples", np.asarray(picture.convert("RGB")), trainer.global_step)
