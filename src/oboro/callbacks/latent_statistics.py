"""Latents with mean 0 and standard deviation 1."""

from lightning import Trainer

from oboro.base.errors import UserError
from oboro.base.ranges import Count, CountOrNone
from oboro.base.spread import spread
from oboro.callbacks.checkpoints import Checkpoints
from oboro.callbacks.evaluation import CodecEvaluation, MetricEvaluation, check_images
from oboro.evaluate.reconstruction import latent_statistics
from oboro.task import Autoencoder


class LatentStatistics(CodecEvaluation):
    """Standardises the codec: its buffers get mean and standard deviation of its averaged weights' latents of ``n``
    training images (None: all), on all ranks.

    It comes before each measuring, too, which may write a best checkpoint. ``chunk`` images are encoded at once.
    Raises ``UserError`` before training where checkpoints would be written with the statistics of older weights.
    """

    changes = True

    def __init__(self, every_n_steps: CountOrNone, n: Count | None = None, chunk: Count = 100):
        super().__init__(every_n_steps)
        check_images(self, n, chunk)
        self.n = n
        self.chunk = chunk

    def on_fit_start(self, trainer: Trainer, task: Autoencoder) -> None:
        place = trainer.callbacks.index(self)
        for other, callback in enumerate(trainer.callbacks):
            if not isinstance(callback, Checkpoints):
                continue
            if other < place:
                raise UserError(
                    "checkpoints come before statistics; name latent_statistics before them in callbacks=[...]."
                )
            every = callback.every_n_steps
            if every and (not self.every_n_steps or every % self.every_n_steps):
                raise UserError(
                    f"checkpoints every {every} steps would hold statistics of older weights; set "
                    f"callbacks.latent_statistics.every_n_steps={every}."
                )

    def due(self, trainer: Trainer) -> bool:
        measures = (callback for callback in trainer.callbacks if isinstance(callback, MetricEvaluation))
        return super().due(trainer) or any(callback.due(trainer) for callback in measures)

    def evaluate(self, trainer: Trainer, task: Autoencoder) -> None:
        images = trainer.datamodule.train.samples
        with task.averaged():
            statistics = latent_statistics(task.learned, images, spread(self.n, len(images)), task.device, self.chunk)
        task.learned.standardise(*statistics)
