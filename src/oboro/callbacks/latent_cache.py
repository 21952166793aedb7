"""Latents computed once instead of at every step."""

import sys

from lightning import Callback, Trainer

from oboro.base.errors import UserError
from oboro.base.progress_bar import progress_bar
from oboro.base.ranges import Count
from oboro.conditioner import Image, Unconditional
from oboro.data.latents import Latents, cache_latents
from oboro.data.store import Samples
from oboro.modality import Modality
from oboro.task import Task


class LatentCache(Callback):
    """Before training, the latents of all samples come from the cache, or go there; batches then hold them as "latent".
    So do those of second pictures of the data, as "hint_latent", where the network reads these (``conditioner.Image``).

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
        if len(data.training_shapes) > 1:
            raise UserError("latents are cached of one size; leave callbacks.latent_cache out, or set data.buckets=0.")
        shown = trainer.is_global_zero and sys.stderr.isatty()

        def cached(samples: Samples, modality: Modality, name: str, flips: bool) -> Latents:
            with progress_bar(f"latents of {name}", len(samples), shown) as done:
                return cache_latents(
                    samples,
                    modality,
                    codec,
                    data.cache_dir / "latents",
                    flips=flips,
                    device=task.device,
                    chunk=self.chunk,
                    done=done,
                )

        for name, part in (("train", data.train), ("validation", data.validation)):
            if len(part) == 0:
                continue
            flips, noun = data.flip and name == "train", data.modality.noun
            part.latents = cached(part.samples, data.modality, f"{name} {noun}", flips)
            part.keeps_samples = "x" in getattr(task, "entries", ())
            part.hint_latents = {
                entry: cached(part.hints[entry], data.hint_modalities[entry], f"{name} {noun}, {entry}", flips)
                for entry in encoded_entries(task)
                if entry in part.hints and data.hint_modalities[entry].shape == data.modality.shape
            }


def encoded_entries(task: Task) -> list[str]:
    """The second pictures of which a condition of ``task`` is the latents, by their entry of a batch."""
    singles = getattr(task, "conditioner", Unconditional()).singles
    return [s.entry for s in singles if isinstance(s, Image) and s.latent and not s.computed]
