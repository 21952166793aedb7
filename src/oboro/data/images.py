"""What every image data set shares: the cache, the split, the order, the batches."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from oboro.base.errors import UserError
from oboro.base.seeding import generator
from oboro.data import cache
from oboro.data.cache import CachedImages, ImageArray, Source
from oboro.data.latents import Latents
from oboro.data.population import Population
from oboro.data.stream import Chunks, Selection, TrainStream

_FORMAT = "1 lanczos"  # part of every cache key: changes when the same source decodes to other pixels
_CHUNK = 128  # images of a validation batch at most: a constant, since batch shapes change results by 1e-7


def from_uint8(image: Tensor) -> Tensor:
    """uint8 to float32 in [−1, 1]: ``x / 127.5 − 1``. ``to_uint8`` is its exact inverse."""
    return image.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(image: Tensor) -> Tensor:
    """Floating point to uint8: ``round(clamp(x, −1, 1) · 127.5 + 127.5)``, computed in float32."""
    return image.to(torch.float32).clamp(-1, 1).mul(127.5).add(127.5).round().to(torch.uint8)


class ImageData(LightningDataModule, ABC):
    """Images (C, H, W) decoded once into a memory-mapped array and read in an order that resumes exactly.

    A training batch is ``{"image": (b, C, H, W), "index": (b,) int64}`` and, where ``num_classes`` > 0,
    ``"label": (b,) int64``; ``index`` is the row of ``train_images`` (``validation_images`` for a validation batch).
    Where the data has captions, ``"caption"`` is a list of b strings, which stay on the CPU.
    ``"weight": (b,)`` is what its loss counts, where the data say so.
    With latents from the cache (``callbacks=latent_cache``) a batch holds ``"latent"`` instead of ``"image"``.
    Images travel as uint8 and become float32 in [−1, 1] on the device, where mirroring happens too.

    The training stream is infinite and a pure function of ``(seed, position)``: see ``TrainStream``. It starts at the
    trainer's step, so run with ``max_steps`` and ``use_distributed_sampler=False``.

    - ``resolution``: side, or (H, W). ``channels``: 1 grey, 3 RGB, 4 RGB and opacity.
    - ``num_classes``: 0 ignores labels; otherwise it has to be the number of classes that the data has.
    - ``batch_size``: images per optimizer step over all devices and accumulated micro-batches.
    - ``num_workers``: 0 is fastest here. A memory-mapped batch is one copy, and handing it over from another process
      costs several times as much (32 pixels, batches of 64: 220,000 images/s with 0 workers, 24,000 with 2).
    - ``flip``: mirror half of the training images left to right.
    - ``validation``: how many images to hold out, or which fraction of them. Where a source says which images belong
      together, groups are held out whole, so that the number may fall short by less than the size of a group.

    After ``prepare_data()`` and ``setup()``: ``train_images`` and ``validation_images`` (``ImageArray``),
    ``train_labels`` and ``validation_labels`` ((n,) int64 or None), ``train_captions`` and ``validation_captions``
    (list of strings or None), ``population`` (classes and captions of the training images) and
    ``fingerprint``, the SHA-256 of all decoded pixels, labels, captions
    and groups. Mistakes raise ``UserError``.
    """

    def __init__(
        self,
        *,
        channels: int,
        resolution: int | Sequence[int],
        num_classes: int,
        batch_size: int,
        num_workers: int,
        flip: bool,
        validation: int | float,
        seed: int,
        cache_dir: str | None,
    ):
        super().__init__()
        size = (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
        if channels not in (1, 3, 4):
            raise UserError(f"data.channels={channels} is not a kind of image; set 1 (grey), 3 (RGB) or 4 (RGBA)")
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"data.resolution={resolution} is not a size; set one side or [height, width]")
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size} trains on nothing; set data.batch_size=1 or more")
        self.image_shape: tuple[int, int, int] = (channels, *size)
        self.num_classes, self.batch_size, self.num_workers = num_classes, batch_size, num_workers
        self.flip, self.validation, self.seed = flip, validation, seed
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else cache.default_folder()
        # With few held-out images a rank may have no chunk of them.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._cached: CachedImages | None = None
        self.latents: dict[str, Latents] = {}  # of the training and the validation images, once they are cached

    @abstractmethod
    def source(self) -> Source:
        """What there is to decode. Cheap: both ``prepare_data`` and ``setup`` ask."""

    def prepare_data(self) -> None:
        """Decode into the cache, unless it is there. Lightning calls this on one process of each node."""
        source = self.source()
        self._check_classes(source.classes)
        folder = self._folder(source)
        if cache.open_cached(folder) is None:
            cache.build(folder, self.image_shape, source.blocks())

    def setup(self, stage: str | None = None) -> None:
        """Map the cache and split it; reads only."""
        if self._cached is not None:
            return
        source = self.source()
        self._check_classes(source.classes)
        cached = cache.open_cached(self._folder(source))
        if cached is None:
            raise RuntimeError("the images are not in the cache: call prepare_data() before setup()")
        train, held_out = self._split(cached.shape[0], cached.groups)
        self.fingerprint = cached.fingerprint
        self.train_images, self.validation_images = ImageArray(cached, train), ImageArray(cached, held_out)
        self.train_labels = self.validation_labels = None
        self.train_captions = self.validation_captions = None
        if self.num_classes:
            self.train_labels, self.validation_labels = (torch.from_numpy(cached.labels[r]) for r in (train, held_out))
        if cached.captions is not None:
            self.train_captions, self.validation_captions = (
                [cached.captions[i] for i in rows] for rows in (train, held_out)
            )
        self.population = Population(self.train_labels, self.num_classes, self.train_captions)
        self._cached = cached

    def _folder(self, source: Source) -> Path:
        key = hashlib.sha256(repr((_FORMAT, source.key, self.image_shape)).encode()).hexdigest()
        return self.cache_dir / "data" / f"{type(self).__name__.lower()}-{key[:32]}"

    def _check_classes(self, found: int) -> None:
        if self.num_classes and not found:
            raise UserError(
                f"data.num_classes={self.num_classes}, but the images have no labels; set data.num_classes=0"
            )
        if self.num_classes and self.num_classes != found:
            raise UserError(f"the data has {found} classes, not {self.num_classes}; set data.num_classes={found}")

    def _split(self, count: int, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Rows for training and for validation, each ascending: a fixed permutation of the seed, cut in two.

        With ``groups`` (count,) each group is one element of the permutation, and held out if all of it still fits.
        """
        held_out = round(self.validation * count) if isinstance(self.validation, float) else self.validation
        if not 0 <= held_out < count:
            raise UserError(
                f"data.validation={self.validation} holds out {held_out} of {count} images and has to leave at least "
                f"one to train on; set a number from 0 to {count - 1}, or a fraction below 1"
            )
        if groups is None:
            order = torch.randperm(count, generator=generator(self.seed, "split")).numpy()
            return np.sort(order[held_out:]), np.sort(order[:held_out])
        _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        chosen, room = np.zeros(len(sizes), dtype=bool), held_out
        for i in torch.randperm(len(sizes), generator=generator(self.seed, "split")).tolist():
            if sizes[i] <= room:
                chosen[i], room = True, room - sizes[i]
        if held_out and not chosen.any():
            raise UserError(
                f"data.validation={self.validation} holds out {held_out} of {count} images, fewer than any group that "
                f"belongs together; set data.validation={sizes.min()} or more"
            )
        return np.flatnonzero(~chosen[group]), np.flatnonzero(chosen[group])

    def train_dataloader(self) -> DataLoader:
        world, rank = self._place()
        stream = TrainStream(
            len(self.train_images),
            self.batch_size,
            self.seed,
            flip=self.flip,
            world=world,
            rank=rank,
            accumulate=1 if self.trainer is None else self.trainer.accumulate_grad_batches,
            start=self._consumed,
        )
        return self._loader(self._train_batches(), stream)

    def _train_batches(self) -> "_Batches":
        return _Batches(self.train_images, self.train_labels, self.train_captions, self.latents.get("train"))

    def val_dataloader(self) -> DataLoader:
        world, rank = self._place()
        chunks = Chunks(len(self.validation_images), min(self.batch_size, _CHUNK), world=world, rank=rank)
        told = (self.validation_labels, self.validation_captions, self.latents.get("validation"))
        batches = _Batches(self.validation_images, *told)
        return self._loader(batches, chunks)

    def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """On the device: mirror where the stream says so, then uint8 to [−1, 1]. Latents from the cache are ready."""
        if "image" not in batch:
            return batch
        batch = dict(batch)
        flip = batch.pop("flip", None)
        if flip is not None:
            batch["image"] = torch.where(flip[:, None, None, None], batch["image"].flip(-1), batch["image"])
        batch["image"] = from_uint8(batch["image"])
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


class _Batches(Dataset):
    """Reads the whole batch that a sampler selects at once."""

    def __init__(self, images: ImageArray, labels: Tensor | None, captions: list[str] | None, latents: Latents | None):
        self._images, self._labels, self._captions, self._latents = images, labels, captions, latents

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, selection: Selection) -> dict[str, Tensor | list[str]]:
        index, flip = selection
        batch = {"index": index}
        if self._latents is not None:
            batch["latent"], flip = self._latents(index, flip), None
        else:
            batch["image"] = self._images[index]
        if self._labels is not None:
            batch["label"] = self._labels[index]
        if self._captions is not None:
            batch["caption"] = [self._captions[i] for i in index.tolist()]
        if flip is not None:
            batch["flip"] = flip
        return batch


def _as_is(batch: dict) -> dict:
    return batch
