"""What every data source shares: the cache, the split, the order, the batches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypedDict, Unpack

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from oboro.base.amounts import check_fits_memory
from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.interrupt import outlive_signals
from oboro.base.paths import LocalPath
from oboro.base.ranges import BelowOne, Classes, Count, CountOrNone, Seed
from oboro.data import cache
from oboro.data.cache import Source
from oboro.data.check_classes import check_classes, check_labels
from oboro.data.decode_once import decode_once
from oboro.data.population import Population
from oboro.data.report import listed, report
from oboro.data.shapes import AUTO
from oboro.data.split import Rows, Split, split_classes, split_rows
from oboro.data.store import Store
from oboro.data.stream import Chunks, Order, Shuffled, TrainStream, places
from oboro.modality import Modality

_CHUNK = 128  # samples of a validation batch at most: a constant, since batch shapes change results by 1e-7


class Settings(TypedDict, total=False):
    """The keyword arguments of every data source; ``DataModule`` says what they mean."""

    num_classes: Classes | Literal["auto"]
    batch_size: Count
    num_workers: CountOrNone
    flip: bool
    validation: CountOrNone | BelowOne
    test: CountOrNone | BelowOne
    left_out: Sequence[CountOrNone]
    seed: Seed
    cache_dir: LocalPath | None


class DataModule(LightningDataModule, ABC):
    """Samples (C, ...) decoded once into a memory-mapped array and read in an order that resumes exactly.

    A subclass gives ``modality``, what one sample is, and ``source()``, where samples come from. A source of pictures
    is a subclass of ``ImageData``, one of series of ``SeriesData``: these know their modality.

    A training batch is ``{"x": (b, C, ...), "index": (b,) int64}`` and, where ``num_classes`` > 0,
    ``"label": (b,) int64``; ``index`` is the row of ``train`` (``validation`` for a validation batch,
    where -1 stands for no sample: any fills the place).
    Where the data has captions, ``"caption"`` is a list of b strings, which stay on the CPU, and where a second picture
    belongs to each sample, ``"hint"`` (b, C', H, W), or several of other names, is in [−1, 1], cropped and mirrored
    like its sample.
    ``"weight": (b,)`` is what its loss counts, where the data say so.
    With latents from the cache (``+callbacks=latent_cache``) a batch holds ``"latent"`` instead of ``"x"``, or beside
    it where the condition is computed from ``"x"``.
    Samples travel as they are stored and get the range of the model on the device, where mirroring happens too.

    The training stream is infinite and a pure function of ``(seed, position)``: see ``TrainStream``. It starts at the
    trainer's step, so run with ``max_steps`` and ``use_distributed_sampler=False``.

    Every keyword argument has its default in ``defaults``, of which a subclass may set its own:

    - ``num_classes``: 0 ignores labels; otherwise it has to be the number of classes that the data has. ``"auto"`` is
      that number; a single class is none.
    - ``batch_size``: samples per optimizer step over all devices and accumulated micro-batches.
    - ``num_workers``: 0 is fastest here. A memory-mapped batch is one copy, and handing it over from another process
      costs several times as much (32 pixels, batches of 64: 220,000 images/s with 0 workers, 24,000 with 2).
    - ``flip``: mirror half of the training samples left to right.
    - ``validation``: how many samples to hold out, or which fraction of them. Where a source says which samples belong
      together, groups are held out whole, so that the number may fall short by less than the size of a group.
    - ``test``: how many more to hold out, as ``validation`` does: neither trained on nor validated with. The rows of
      ``validation`` are the same whatever it is.
    - ``left_out``: classes whose samples are in no other part than ``anomalous``. ``num_classes`` stays what it is.
    - ``seed``: of the split and of the order. ``cache_dir``: by default ``$XDG_CACHE_HOME/oboro``.

    After ``prepare_data()`` and ``setup()``: ``train``, ``validation``, ``test`` and ``anomalous`` (``Split``),
    ``population`` (classes and captions of the training samples) and ``fingerprint``, the SHA-256 of all decoded
    numbers, labels, captions, hints and groups. Mistakes raise ``UserError``.
    """

    defaults: ClassVar[Settings] = {
        "num_classes": 0,
        "batch_size": 128,
        "num_workers": 0,
        "flip": False,
        "validation": 0.05,
        "test": 0,
        "left_out": (),
        "seed": 0,
        "cache_dir": None,
    }

    modality: Modality  # what one sample is
    hint_modalities: Mapping[str, Modality] = MappingProxyType({})  # what its second pictures are, by entry
    noun: str = "samples"  # what messages call them, before ``modality`` is known
    max_unreadable: float = 0.5  # share of samples
    stored_shape: tuple[int, ...] | None = None  # of a sample, for sources that choose it; None: as it is decoded
    train: Split
    validation: Split
    test: Split
    anomalous: Split  # with labels, the numbers of ``kinds``
    kinds: Sequence[str] = ()  # what samples are, by the labels of ``anomalous``: names of classes

    def __init__(self, **settings: Unpack[Settings]):
        super().__init__()
        given = self.complete(settings)
        if given["batch_size"] < 1:
            raise UserError(f"data.batch_size={given['batch_size']} trains on nothing; set data.batch_size=1 or more")
        self.given_classes, self.batch_size, self.num_workers = (
            given[key] for key in ("num_classes", "batch_size", "num_workers")
        )
        self.flip, self.seed = given["flip"], given["seed"]
        self.held_out, self.tested, self.left_out = given["validation"], given["test"], tuple(given["left_out"])
        self.cache_dir = Path(given["cache_dir"]).expanduser() if given["cache_dir"] else cache.default_folder()
        self._store: Store | None = None
        self._reported = False

    @cached_property
    def num_classes(self) -> int:
        """How many classes there are; 0 without labels, or where they are ignored."""
        if self.given_classes != AUTO:
            return self.given_classes
        count = self.count_classes()
        return count if count > 1 else 0

    def count_classes(self) -> int:
        """How many classes the labels name; 0 without labels."""
        return self._listed.classes

    @cached_property
    def _listed(self) -> Source:
        """For what follows from the source before it is decoded; decoding lists anew."""
        return self.source()

    def settled(self) -> dict[str, Any]:
        """The settings that were ``"auto"``, as they are."""
        return {"num_classes": self.num_classes} if self.given_classes == AUTO else {}

    def unread(self) -> dict[str, str]:
        """The settings that others of its settings leave without a meaning, and why in words."""
        return {}

    def natural_size(self) -> str:
        """What to set so that no sample is enlarged, in words."""
        return "set data.resolution to the size of the smallest"

    def findings(self) -> list[str]:
        """What those settings follow from, in words."""
        if self.given_classes != AUTO:
            return []
        return [
            f"{counted(self.num_classes, 'classes')}{listed(self._listed.names)}" if self.num_classes else "no classes"
        ]

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
        """Decode into the cache, unless it is there, and say what is left out. Lightning calls this on one process of
        each node."""
        source = self.source()
        check_classes(self.num_classes, source)
        cached = decode_once(source, self._folder(source), self.stored_shape, self.noun, self.max_unreadable)
        if not self._reported:
            report(source, cached, self.noun, self.given_classes == 0, self.natural_size)
            self._reported = True

    def open(self, source: Source) -> Store:
        """What ``prepare_data`` has made of ``source``; reads only."""
        cached = cache.open_cached(self._folder(source))
        if cached is None:
            raise UserError(
                f"the {self.noun} are not in the cache {self.cache_dir} as they are now: they have changed while they "
                "were read, or nodes do not share that folder; start again, with data.cache_dir=<a folder of all nodes>"
            )
        return cached

    def setup(self, stage: str | None = None) -> None:
        """Open what there is and split it; reads only."""
        if self._store is not None:
            return
        source = self.source()
        check_classes(self.num_classes, source)
        store = self.open(source)
        check_labels(self.num_classes, store)
        rows, anomalous = self.partition(source, store)
        self.fingerprint = store.fingerprint
        self.train, self.validation, self.test = (self._part(store, part, self.num_classes > 0) for part in rows)
        self.anomalous = self._part(store, anomalous, store.labels is not None)
        self.kinds = source.names or [f"class {number}" for number in range(source.classes)]
        self.population = self.population_of(self.train)
        self._store = store
        self.describe(store)
        if self.flip and not self.modality.mirrors:
            raise UserError(f"{self.modality.noun} have no mirror image; leave data.flip=false")

    def population_of(self, part: Split) -> Population:
        """What is known of the samples of ``train`` or ``validation``."""
        return Population(part.labels, self.num_classes, part.captions, part.hints, part.samples)

    def describe(self, store: Store) -> None:
        """What is known of samples once they are read: for a subclass whose ``modality`` follows from the data."""

    def partition(self, source: Source, store: Store) -> tuple[Rows, np.ndarray]:
        """The rows of ``train``, ``validation`` and ``test``, and those of ``anomalous``."""
        kept, others = split_classes(self.left_out, source, store)
        rows = self.divide(len(kept), None if store.groups is None else store.groups[kept])
        return Rows(*(kept[part] for part in rows)), others

    def divide(self, count: int, groups: np.ndarray | None) -> Rows:
        """The parts of ``count`` samples and their ``groups`` (count,)."""
        return split_rows(count, self.held_out, self.tested, groups, self.seed)

    def sample_names(self, part: Split) -> list[str]:
        """What each sample of a part is called: its number among all, or the file below the root that it was."""
        return [f"{row:06d}" for row in part.samples.rows]

    def anomalous_masks(self) -> Tensor | None:
        """Of ``anomalous`` the places that are, (n, *size) bool, for sources that know them."""
        return None

    def _part(self, store: Store, rows: np.ndarray, labelled: bool) -> Split:
        return Split(
            store.samples(rows),
            torch.from_numpy(store.labels[rows]) if labelled else None,
            store.texts(rows),
            {entry: store.samples(rows, entry) for entry in store.hint_shapes},
        )

    def _folder(self, source: Source) -> Path:
        return cache.folder_of(self.cache_dir, type(self).__name__, source, self.stored_shape)

    def train_dataloader(self) -> DataLoader:
        world, rank = self._place()
        share = 1 / (self._accumulate * world)
        check_fits_memory(
            "data.batch_size", self.batch_size, self.modality.shape, torch.float32.itemsize, self.modality.noun, share
        )
        stream = TrainStream(
            self.order(),
            self.batch_size,
            flip=self.flip,
            world=world,
            rank=rank,
            accumulate=self._accumulate,
            start=self._consumed,
        )
        return self._loader(self.read_in_training(), stream)

    def order(self) -> Order:
        """In which order training has its samples."""
        return Shuffled(len(self.train), self.seed)

    def read_in_training(self) -> Split:
        """``train`` as training reads it: some sources give it in several sizes."""
        return self.train

    @property
    def training_shapes(self) -> Sequence[tuple[int, ...]]:
        """The shapes that samples may have in training, first that of all others."""
        return [self.modality.shape]

    def rows(self, micro_batch: int) -> Tensor:
        """Which samples (b,), int64, of the batch that one process would have are those of this rank's ``micro_batch``,
        0 for the first of an optimizer step. Noise follows from them."""
        world, rank = self._place()
        return places(self.batch_size, world, rank, self._accumulate, micro_batch)

    def val_dataloader(self) -> DataLoader:
        world, rank = self._place()
        chunks = Chunks(len(self.validation), min(self.batch_size, _CHUNK), world=world, rank=rank)
        return self._loader(self.validation, chunks)

    def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """On the device: mirror where the stream says so, then the range of the model. Cached latents are ready."""
        batch = dict(batch)
        flip = batch.pop("flip", None)
        for key, modality in {"x": self.modality, **self.hint_modalities}.items():
            if key in batch:
                samples = batch[key] if flip is None else modality.flip(batch[key], flip)
                batch[key] = modality.to_model(samples)
        return batch

    def _place(self) -> tuple[int, int]:
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    @property
    def _accumulate(self) -> int:
        return 1 if self.trainer is None else self.trainer.accumulate_grad_batches

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
            worker_init_fn=outlive_signals,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )


def _as_is(batch: dict) -> dict:
    return batch
