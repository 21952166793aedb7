"""Latents with mean 0 and standard deviation 1."""

from lightning import Trainer

from oboro.callbacks.evaluation import Evaluation
from oboro.latent import latent_statistics, spread
from oboro.task import Autoencoder


class LatentStatistics(Evaluation):
    """Standardises the codec: its buffers get mean and standard deviation of its averaged weights' latents of ``n``
    training images (None: all), on all ranks.

    Must come before ``Checkpoints`` in the list of callbacks, with its steps among this one's, so that no file has the
    statistics of older weights.
    """

    def __init__(self, every_n_steps: int, n: int | None = None):
        super().__init__(every_n_steps)
        self.n = n

    def evaluate(self, trainer: Trainer, task: Autoencoder) -> None:
        images = trainer.datamodule.train_images
        with task.averaged():
            found = latent_statistics(task.learned, images, spread(self.n, len(images)), task.device)
        task.learned.standardise(*found)
