"""Latents computed once instead of at every step."""

import sys

from lightning import Callback, Trainer
from rich.console import Console
from rich.progress import Progress

from oboro.base.errors import UserError
from oboro.data import from_uint8
from oboro.data.latents import cache_latents
from oboro.task import Task


class LatentCache(Callback):
    """Before training, the latents of all images come from the cache, or go there; batches then hold them as "latent".

    With ``data.flip`` those of mirrored images too. They are what the codec gives in float32, whatever the precision of
    the run. ``chunk`` images are encoded at once. Raises ``UserError`` where there is no codec to save the work of.
    """

    def __init__(self, chunk: int = 100):
        if chunk < 1:
            raise UserError(f"callbacks.latent_cache.chunk={chunk} encodes nothing; set it to 1 or more.")
        self.chunk = chunk

    def on_fit_start(self, trainer: Trainer, task: Task) -> None:
        data, codec = trainer.datamodule, task.codec
        if not codec.state_dict():
            raise UserError("pixels need no cache of latents; leave callbacks.latent_cache out, or choose a codec.")
        shown = trainer.is_global_zero and sys.stderr.isatty()
        with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
            for part, images in (("train", data.train_images), ("validation", data.validation_images)):
                if len(images) == 0:
                    continue
                job = bar.add_task(f"latents of {part} images", total=len(images))
                data.latents[part] = cache_latents(
                    images,
                    from_uint8,
                    codec,
                    data.cache_dir / "latents",
                    flips=data.flip and part == "train",
                    device=task.device,
                    chunk=self.chunk,
                    done=lambda n, job=job: bar.update(job, completed=n),
                )
