"""Latents computed once instead of at every step."""

import sys

from lightning import Callback, Trainer
from rich.console import Console
from rich.progress import Progress

from oboro.base.errors import UserError
from oboro.base.ranges import Count
from oboro.data.latents import cache_latents
from oboro.task import Task


class LatentCache(Callback):
    """Before training, the latents of all samples come from the cache, or go there; batches then hold them as "latent".

    With ``data.flip`` those of mirrored samples too. They are what the codec gives in float32, whatever the
    precision of the run. ``chunk`` samples are encoded at once. Raises ``UserError`` where there is no
    codec to save the work of.
    """

    def __init__(self, chunk: Count = 100):
        if chunk < 1:
            raise UserError(f"callbacks.latent_cache.chunk={chunk} encodes nothing; set it to 1 or more.")
        self.chunk = chunk

    def on_fit_start(self, trainer: Trainer, task: Task) -> None:
        data, codec = trainer.datamodule, task.codec
        if not codec.state_dict():
            raise UserError("pixels need no cache of latents; leave callbacks.latent_cache out, or choose a codec.")
        shown = trainer.is_global_zero and sys.stderr.isatty()
        with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
            for name, part in (("train", data.train), ("validation", data.validation)):
                if len(part) == 0:
                    continue
                job = bar.add_task(f"latents of {name} {data.modality.noun}", total=len(part))
                part.latents = cache_latents(
                    part.samples,
                    data.modality,
                    codec,
                    data.cache_dir / "latents",
                    flips=data.flip and name == "train",
                    device=task.device,
                    chunk=self.chunk,
                    done=lambda n, job=job: bar.update(job, completed=n),
                )
                part.keeps_samples = "x" in getattr(task, "entries", ())
