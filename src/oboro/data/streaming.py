"""Pictures in shards, here or elsewhere, decoded while training reads them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import ClassVar, Unpack

import numpy as np

from oboro.base.amounts import amount
from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.base.ranges import Count, CountOrNone, Positive
from oboro.base.remark import notice, remark
from oboro.data.buckets import Bucketed, Size, bucket_sizes, buckets_of
from oboro.data.cache import Source
from oboro.data.check_classes import check_classes
from oboro.data.image_data import ImageData, ImageSettings
from oboro.data.shapes import AUTO, Shapes
from oboro.data.shard_copies import Copies, Here, is_elsewhere
from oboro.data.shard_files import Packed, Shards, Texts, opened_rows
from oboro.data.shards import GROUP, HEIGHT, INDEX, LABEL, TEXT, WIDTH, Index
from oboro.data.split import Rows as Parts
from oboro.data.split import Split, held_out_counts
from oboro.data.stream import Order, ShuffledWindows
from oboro.modality.modality import sizes


class Streaming(ImageData):
    """A folder that ``python -m oboro.data.pack`` wrote, at ``root``, a path or an address.

    Nothing is decoded beforehand: a batch is decoded when it is read, which ``num_workers`` processes do ahead of the
    step. An epoch has every picture once, in an order that is a function of ``(seed, epoch)`` alone (so training
    resumes exactly, on any number of devices): shards are shuffled, and the pictures of ``window`` shards at a time
    among each other. Up to ``window`` shards are shuffled as a whole.

    From an address shards are copied to ``cache_dir`` when they are needed, those of the next window while training
    reads this one, and at most ``copies`` gigabytes of them stay.

    The last pictures are held out, of a folder that was shuffled when it was packed, so that they lie in few shards;
    pictures of equal group are held out together, wherever they lie. ``resolution`` and ``channels`` are what each
    picture is made to fit when it is decoded, so one folder serves for several.

    With ``buckets`` > 0 training has pictures in the shape that is nearest to their own, of those of at most its area
    whose sides are multiples of ``buckets`` (``bucket_sizes``), and every batch has one shape (``Bucketed``). All else
    sees them at ``resolution``: validation, references, samples. The whole folder is one window then.
    """

    defaults: ClassVar[ImageSettings] = {"channels": AUTO, "resolution": AUTO, "num_classes": AUTO, "num_workers": 2}

    def __init__(
        self,
        *,
        root: LocalPath,
        window: Count = 16,
        copies: Positive = 100.0,
        buckets: CountOrNone = 0,
        **settings: Unpack[ImageSettings],
    ):
        super().__init__(**settings)
        self.root, self.window, self.copies, self.buckets = root, window, copies, buckets

    def source(self) -> Source:
        index = self._index
        labelled = LABEL in index.columns
        return Source(index.fingerprint, len(index.classes) if labelled else 0, lambda: iter(()), names=index.classes)

    def shapes(self) -> Shapes:
        return self._index.shapes

    def natural_size(self) -> str:
        return self.shapes().remedy()

    @cached_property
    def _local(self) -> Here | Copies:
        if is_elsewhere(self.root):
            return Copies(self.root, self.cache_dir / "shards", self.copies * 1e9)
        return Here(self.root)

    @cached_property
    def _index(self) -> Index:
        try:
            index = Index.from_text(self._local.read(INDEX))
        except FileNotFoundError as error:
            if isinstance(self._local, Here) and not self._local.root.exists():
                raise UserError(f"data.root={self.root} does not exist; set data.root=<packed folder>") from error
            raise UserError(
                f"{self.root} has no {INDEX}; pack pictures with `python -m oboro.data.pack` and set data.root to that "
                "folder, or read them with data=image_folder"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{INDEX} of {self.root} cannot be read ({error}); copy or pack that folder again"
            ) from error
        return index

    def prepare_data(self) -> None:
        """Copy what is known of the pictures, where it lies elsewhere, and say what is enlarged."""
        source = self.source()
        check_classes(self.num_classes, source)
        self._check_room()
        if self._index.known is not None:
            self._local(self._index.known)
        if not self._reported:
            shapes, counts = map(np.array, zip(*self.shapes().sizes.items(), strict=True))
            target = np.array(self.training_sizes)[self._sizes_of(shapes)]
            if small := int(counts[(shapes < target).any(1)].sum()):
                size = "their size in training" if self.buckets else sizes(self.modality.shape[1:])
                notice(
                    f"{small:,} of {counted(self._index.count, self.noun)} are smaller than {size} and enlarged; "
                    f"{self.natural_size()}"
                )
            self._reported = True

    def _check_room(self) -> None:
        """Raises ``UserError`` where two windows of copies are more than may stay."""
        files = [shard.bytes for shard in self._index.shards]
        needed = sum(files) if self.buckets else min(2 * self.window, len(files)) * max(files)
        if is_elsewhere(self.root) and needed > self.copies * 1e9:
            which, other = ("all", "data.buckets=0") if self.buckets else ("two windows of", "a smaller data.window")
            raise UserError(
                f"data.copies={self.copies:g} GB do not hold {which} shards, {amount(needed)}; set "
                f"data.copies={1.1 * needed / 1e9:.2g} or more, or {other}"
            )

    def open(self, source: Source) -> Packed:
        index, modality = self._index, self.modality
        known = None if index.known is None else opened_rows(self._local, index.known, whole=True)
        again = partial(opened_rows, self._local, index.known)  # in loader workers, without a look at all of it
        return Packed(
            shape=(index.count, *modality.shape),
            labels=known.numbers(LABEL) if known is not None and LABEL in index.columns else None,
            captions=Texts(again, TEXT, np.arange(index.count)) if TEXT in index.columns else None,
            groups=known.numbers(GROUP) if known is not None and GROUP in index.columns else None,
            hint_shapes={entry: (index.count, c, *modality.shape[1:]) for entry, c in index.hints.items()},
            fingerprint=f"{index.fingerprint[:32]}{'x'.join(map(str, modality.shape))}",
            shards=Shards(index, self._local),
        )

    def divide(self, count: int, groups: np.ndarray | None) -> Parts:
        if groups is not None:
            return super().divide(count, groups)
        held_out, tested = held_out_counts(count, self.held_out, self.tested)
        rows, ends = np.arange(count), (count - held_out - tested, count - held_out)
        return Parts(rows[: ends[0]], rows[ends[1] :], rows[ends[0] : ends[1]])

    def order(self) -> Order:
        if self.buckets:
            return self._bucketed()
        ends = np.cumsum([shard.count for shard in self._index.shards])
        counts = np.bincount(np.searchsorted(ends, self.train.samples.rows, "right"), minlength=len(ends))

        def ahead(own: list[int], after: list[int]) -> None:
            self._local.ahead(self._index.shards[k] for k in (*own, *after))

        return ShuffledWindows(counts, self.window, self.seed, ahead)

    def _bucketed(self) -> Order:
        order = Bucketed(self._buckets, self.batch_size, self.seed, lambda: self._local.ahead(iter(self._index.shards)))
        if not order.size:
            raise UserError(
                f"data.batch_size={self.batch_size} is more than the {counted(len(self.train), 'training pictures')}; "
                f"set data.batch_size={len(self.train)} or less, or data.buckets=0"
            )
        self._report(len(self.train) - order.size)
        return order

    def _report(self, left: int) -> None:
        """How many pictures have which size, and that ``left`` of them wait for another epoch."""
        names, numbers = [sizes(size) for size in self.training_sizes], self._buckets
        counts = sorted(zip(*np.unique(numbers, return_counts=True), strict=True), key=lambda pair: -pair[1])
        shown = [f"{names[k]} ({n:,})" for k, n in counts]
        most = ", ".join([*shown[:8], *(["…"] if len(shown) > 8 else [])])
        notice(f"training in {counted(len(shown), 'sizes')}: {most}; an epoch leaves out {left:,} of {len(numbers):,}")
        if 0 not in numbers:
            remark(
                f"no batch has {names[0]}, of which samples and metrics are; set data.resolution to "
                "one of the sizes of training, or a smaller data.batch_size"
            )

    def read_in_training(self) -> Split:
        if not self.buckets:
            return self.train
        store, rows, of = self._store, self.train.samples.rows, (self.training_sizes, self._buckets)
        assert isinstance(store, Packed)
        hints = {entry: store.sized(rows, *of, entry) for entry in store.hint_shapes}
        return replace(self.train, samples=store.sized(rows, *of), hints=hints)

    def unread(self) -> dict[str, str]:
        windows = {"window": "the whole folder is one with data.buckets"} if self.buckets else {}
        return {**super().unread(), **windows}

    @cached_property
    def training_sizes(self) -> list[Size]:
        height, width = self.modality.shape[1:]
        return bucket_sizes((height, width), self.buckets) if self.buckets else [(height, width)]

    @property
    def training_shapes(self) -> Sequence[tuple[int, ...]]:
        """As everywhere; before ``setup`` those of any picture, and none that is too rare."""
        found, channels = self.training_sizes, self.modality.shape[0]
        ready = self.buckets and self._store is not None
        used = self._buckets if ready else self._sizes_of(np.array(list(self.shapes().sizes)))
        return [self.modality.shape, *((channels, *found[k]) for k in np.unique(used) if k)]

    def _sizes_of(self, shapes: np.ndarray) -> np.ndarray:
        """The number (n,) of the nearest size of each of ``shapes`` (n, 2), however few have it."""
        return buckets_of(shapes, self.training_sizes, least=1)

    @cached_property
    def _buckets(self) -> np.ndarray:
        """The number of the size of each training picture (n,)."""
        index = self._index
        if not {HEIGHT, WIDTH} <= set(index.columns) or index.known is None:
            raise UserError(
                f"{self.root} was packed without the sizes of the pictures; pack it again, or set data.buckets=0"
            )
        known = opened_rows(self._local, index.known)
        shapes = np.stack([known.numbers(name)[self.train.samples.rows] for name in (HEIGHT, WIDTH)], 1)
        return buckets_of(shapes, self.training_sizes, self.batch_size).astype(np.uint16)
