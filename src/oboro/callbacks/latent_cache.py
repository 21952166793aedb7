"""Latents computed once instead of at every step."""

import sys

from lightning import Callback, Trainer
from rich.console import Console
from rich.progress import Progress

from oboro.base.errors import UserError
from oboro.base.ranges import Count
from oboro.conditioner import Image, Unconditional
from oboro.data.cache import SampleArray
from oboro.data.latents import Latents, cache_latents
from oboro.modality import Modality
from oboro.task import Task


class LatentCache(Callback):
    """Before training, the latents of all samples come from the cache, or go there; batches then hold them as "latent".
    So do those of second pictures, as "hint_latent", where the condition is made of them (``conditioner.Image``).

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

            def cached(samples: SampleArray, modality: Modality, name: str) -> Latents:
                job = bar.add_task(f"latents of {name} {modality.noun}", total=len(samples))
                return cache_latents(
                    samples,
                    modality,
                    codec,
                    data.cache_dir / "latents",
                    flips=data.flip and name.startswith("train"),
                    device=task.device,
                    chunk=self.chunk,
                    done=lambda n: bar.update(job, completed=n),
                )

            for name, part in (("train", data.train), ("validation", data.validation)):
                if len(part) == 0:
                    continue
                part.latents = cached(part.samples, data.modality, name)
                if part.hints is not None and encodes_hints(task):
                    part.hint_latents = cached(part.hints, data.hint_modality, f"{name} second")


def encodes_hints(task: Task) -> bool:
    """Whether a condition of ``task`` is made of latents of second pictures."""
    singles = getattr(task, "conditioner", Unconditional()).singles
    return any(isinstance(single, Image) and single.latent and single.entry == "hint" for single in singles)
