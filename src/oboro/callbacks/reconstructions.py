"""A picture of what comes back from the latent."""

from pathlib import Path

import numpy as np
import torch
from lightning import Trainer

from oboro.base.ranges import Count, CountOrNone
from oboro.base.spread import spread
from oboro.callbacks.evaluation import CodecEvaluation, check_images, spared
from oboro.evaluate.reconstruction import reconstructions
from oboro.logger import log_picture
from oboro.report.pictures import rows_picture
from oboro.task import Autoencoder


class Reconstructions(CodecEvaluation):
    """``n`` held-out images above their reconstructions by the averaged weights: ``folder/step-XXXXXXXX.png`` and
    TensorBoard's ``reconstructions``. Training images where none are held out."""

    def __init__(
        self, folder: str, every_n_steps: CountOrNone, n: Count = 16, chunk: Count = 100, stop_on_error: bool = True
    ):
        super().__init__(every_n_steps)
        self.stop_on_error = stop_on_error
        check_images(self, n, chunk)
        self.n = n
        self.chunk = chunk
        self.folder = Path(folder)

    def evaluate(self, trainer: Trainer, task: Autoencoder) -> None:
        data = trainer.datamodule
        images = (data.validation if len(data.validation) else data.train).samples
        rows = spread(self.n, len(images))
        with task.averaged(), trainer.precision_plugin.forward_context():
            made = reconstructions(task.learned, images, rows, task.device, self.chunk)
        if trainer.is_global_zero:
            picture = rows_picture(data.modality, images[torch.tensor(rows)], made)
            path = self.folder / f"step-{trainer.global_step:08d}.png"
            with spared(f"the picture {path}"):
                self.folder.mkdir(parents=True, exist_ok=True)
                picture.save(path)
            log_picture(trainer.loggers, "reconstructions", np.asarray(picture.convert("RGB")), trainer.global_step)
