"""What every data source shares: the cache, the split, the order, the batches."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, TypedDict, Unpack

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from oboro.base.errors import UserError
from oboro.base.ranges import BelowOne, Classes, Count, CountOrNone, Seed
from oboro.data import cache
from oboro.data.cache import Cached, SampleArray, Source
from oboro.data.population import Population
from oboro.data.split import Split, split_rows
from oboro.data.stream import Chunks, TrainStream
from oboro.modality import Modality

_CHUNK = 128  # samples of a validation batch at most: a constant, since batch shapes change results by 1e-7


class Settings(TypedDict, total=False):
    """The keyword arguments of every data source; ``DataModule`` says what they mean."""

    num_classes: Classes
    batch_size: Count
    num_workers: CountOrNone
    flip: bool
    validation: CountOrNone | BelowOne
    seed: Seed
    cache_dir: str | None


class DataModule(LightningDataModule, ABC):
    """Samples (C, ...) decoded once into a memory-mapped array and read in an order that resumes exactly.

    A subclass gives ``modality``, what one sample is, and ``source()``, where samples come from. A source of pictures
    is a subclass of ``ImageData``, one of series of ``SeriesData``: these know their modality.

    A training batch is ``{"x": (b, C, ...), "index": (b,) int64}`` and, where ``num_classes`` > 0,
    ``"label": (b,) int64``; ``index`` is the row of ``train`` (``validation`` for a validation batch).
    Where the data has captions, ``"caption"`` is a list of b strings, which stay on the CPU, and where a second picture
    belongs to each sample, ``"hint"`` (b, C', H, W) is in [−1, 1], cropped and mirrored like its sample.
    ``"weight": (b,)`` is what its loss counts, where the data say so.
    With latents from the cache (``+callbacks=latent_cache``) a batch holds ``"latent"`` instead of ``"x"``.
    Samples travel as they are stored and get the range of the model on the device, where mirroring happens too.

    The training stream is infinite and a pure function of ``(seed, position)``: see ``TrainStream``. It starts at the
    trainer's step, so run with ``max_steps`` and ``use_distributed_sampler=False``.

    Every keyword argument has its default in ``defaults``, of which a subclass may set its own:

    - ``num_classes``: 0 ignores labels; otherwise it has to be the number of classes that the data has.
    - ``batch_size``: samples per optimizer step over all devices and accumulated micro-batches.
    - ``num_workers``: 0 is fastest here. A memory-mapped batch is one copy, and handing it over from another process
      costs several times as much (32 pixels, batches of 64: 220,000 images/s with 0 workers, 24,000 with 2).
    - ``flip``: mirror half of the training samples left to right.
    - ``validation``: how many samples to hold out, or which fraction of them. Where a source says which samples belong
      together, groups are held out whole, so that the number may fall short by less than the size of a group.
    - ``seed``: of the split and of the order. ``cache_dir``: by default ``$XDG_CACHE_HOME/oboro``.

    After ``prepare_data()`` and ``setup()``: ``train`` and ``validation`` (``Split``), ``population`` (classes and
    captions of the training samples) and ``fingerprint``, the SHA-256 of all decoded numbers, labels, captions, hints
    and groups. Mistakes raise ``UserError``.
    """

    defaults: ClassVar[Settings] = {
        "num_classes": 0,
        "batch_size": 128,
        "num_workers": 0,
        "flip": False,
        "validation": 0.05,
        "seed": 0,
        "cache_dir": None,
    }

    modality: Modality  # what one sample is
    hint_modality: Modality | None = None  # what its second picture is, once it is known that there is one
    stored_shape: tuple[int, ...] | None = None  # of a sample, for sources that choose it; None: as it is decoded
    train: Split
    validation: Split

    def __init__(self, **settings: Unpack[Settings]):
        super().__init__()
        given = self.complete(settings)
        if given["batch_size"] < 1:
            raise UserError(f"data.batch_size={given['batch_size']} trains on nothing; set data.batch_size=1 or more")
        self.num_classes, self.batch_size, self.num_workers = (
            given[key] for key in ("num_classes", "batch_size", "num_workers")
        )
        self.flip, self.held_out, self.seed = given["flip"], given["validation"], given["seed"]
        self.cache_dir = Path(given["cache_dir"]).expanduser() if given["cache_dir"] else cache.default_folder()
        # With few held-out samples a rank may have no chunk of them.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._cached: Cached | None = None

    @classmethod
    def complete(cls, settings: Settings) -> Settings:
        """``settings`` with the defaults of this class. Raises ``TypeError`` for one that no class above it has."""
        values: Settings = {}
        for base in reversed(cls.__mro__):
            values |= vars(base).get("defaults", {})
        if unknown := [name for name in settings if name not in values]:
            raise TypeError(f"{cls.__name__} has no argument {unknown[0]}; it has {', '.join(sorted(values))}")
        return values | settings

    @abstractmethod
    def source(self) -> Source:
        """What there is to decode. Cheap: both ``prepare_data`` and ``setup`` call it."""

    def prepare_data(self) -> None:
        """Decode into the cache, unless it is there. Lightning calls this on one process of each node."""
        source = self.source()
        self._check_classes(source.classes)
        folder = self._folder(source)
        if cache.open_cached(folder) is None:
            cache.build(folder, source.blocks(), self.stored_shape)

    def setup(self, stage: str | None = None) -> None:
        """Map the cache and split it; reads only."""
        if self._cached is not None:
            return
        source = self.source()
        self._check_classes(source.classes)
        cached = cache.open_cached(self._folder(source))
        if cached is None:
            raise RuntimeError("the samples are not in the cache: call prepare_data() before setup()")
        train, held_out = self.divide(cached.shape[0], cached.groups)
        self.fingerprint = cached.fingerprint
        self.train, self.validation = self._part(cached, train), self._part(cached, held_out)
        self.population = Population(self.train.labels, self.num_classes, self.train.captions, self.train.hints)
        self._cached = cached
        self.describe(cached)
        if self.flip and not self.modality.mirrors:
            raise UserError(f"{self.modality.noun} have no mirror image; leave data.flip=false")

    def describe(self, cached: Cached) -> None:
        """What is known of samples once they are decoded: for a subclass whose ``modality`` follows from the data."""

    def divide(self, count: int, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Rows for training and for validation, each ascending, of ``count`` samples and their ``groups`` (count,)."""
        return split_rows(count, self.held_out, groups, self.seed)

    def _part(self, cached: Cached, rows: np.ndarray) -> Split:
        return Split(
            SampleArray(cached, rows),
            torch.from_numpy(cached.labels[rows]) if self.num_classes else None,
            None if cached.captions is None else [cached.captions[i] for i in rows],
            None if cached.hint_shape is None else SampleArray(cached, rows, cache.HINTS),
        )

    def _folder(self, source: Source) -> Path:
        return cache.folder_of(self.cache_dir, type(self).__name__, source, self.stored_shape)

    def _check_classes(self, count: int) -> None:
        if self.num_classes and not count:
            raise UserError(
                f"data.num_classes={self.num_classes}, but the samples have no labels; set data.num_classes=0"
            )
        if self.num_classes and self.num_classes != count:
            raise UserError(f"the data has {count} classes, not {self.num_classes}; set data.num_classes={count}")

    def train_dataloader(self) -> DataLoader:
        world, rank = self._place()
        stream = TrainStream(
            len(self.train),
            self.batch_size,
            self.seed,
            flip=self.flip,
            world=world,
            rank=rank,
            accumulate=1 if self.trainer is None else self.trainer.accumulate_grad_batches,
            start=self._consumed,
        )
        return self._loader(self.train, stream)

    def val_dataloader(self) -> DataLoader:
        world, rank = self._place()
        chunks = Chunks(len(self.validation), min(self.batch_size, _CHUNK), world=world, rank=rank)
        return self._loader(self.validation, chunks)

    def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """On the device: mirror where the stream says so, then the range of the model. Cached latents are ready."""
        batch = dict(batch)
        flip = batch.pop("flip", None)
        for key, modality in (("x", self.modality), ("hint", self.hint_modality)):
            if key in batch:
                samples = batch[key] if flip is None else modality.flip(batch[key], flip)
                batch[key] = modality.to_model(samples)
        return batch

    def _place(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _consumed(self) -> int:
        """Micro-batches consumed so far: whole steps, and the part of a step that an interrupted run had begun.

        Lightning counts that part towards its next optimizer step, so the stream skips it as well and stays in step.
        """
        if self.trainer is None:
            return 0
        accumulate = self.trainer.accumulate_grad_batches
        begun = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed % accumulate
        return self.trainer.global_step * accumulate + begun

    def _loader(self, batches: Dataset, sampler: Sampler) -> DataLoader:
        return DataLoader(
            batches,
            batch_sampler=sampler,
            collate_fn=_as_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )


def _as_is(batch: dict) -> dict:
    return batch
