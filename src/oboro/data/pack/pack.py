"""Pictures of a source, checked, shuffled, perhaps reduced, written to Arrow files."""

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.remark import remark
from oboro.base.seeding import generator
from oboro.base.temporary import beside, clear_abandoned, held
from oboro.data.cache import write_whole
from oboro.data.data_module import DataModule
from oboro.data.decode_or_skip import Picture, channels_of, check_alike, opened, reason
from oboro.data.image_data import ImageData
from oboro.data.left_out import UNREADABLE, LeftOut, summary, table
from oboro.data.pack.write import ShardWriter, write_known
from oboro.data.report import LEFT_OUT
from oboro.data.shapes import Shapes
from oboro.data.shards import GROUP, HEIGHT, INDEX, LABEL, TEXT, WIDTH, Index
from oboro.data.streaming import Streaming
from oboro.modality.decode_image import fit, is_grey, load_image, warnings_off

AT_ONCE = 256  # pictures that are looked at in threads
SPREAD = 16  # shards that are written at a time where the order of a source is not known beforehand
Format = Literal["png", "jpeg", "webp"]
SAVED: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "webp": {"format": "WEBP", "lossless": True},
}


@dataclass(frozen=True)
class Encoded:
    """A picture that can be read: its file and those that belong to it, its size (height, width), and whether it is
    grey."""

    image: bytes
    hints: dict[str, bytes]
    size: tuple[int, int]
    grey: bool


def pack(
    data: ImageData,
    folder: Path,
    *,
    shard_bytes: int = 2**28,
    side: int | None = None,
    format: Format = "png",
    seed: int = 0,
) -> Index:
    """Write the pictures of ``data`` to the new ``folder``, in shards of ``shard_bytes``, in an order of ``seed``.

    Files are kept as they are, unless their shorter side is longer than ``side``: then they are reduced to it and saved
    in ``format``, PNG and WebP without loss. Of sources that only know decoded pictures these are saved in it. Each is
    decoded once, and left out where that fails.

    A source that cannot be read in any order (WebDataset) is dealt at random to ``SPREAD`` shards that are written at a
    time. Raises ``UserError`` where too many cannot be read, where there are none, and where the disk is full.
    """
    if isinstance(data, Streaming):
        raise UserError(f"{data.root} is packed already; pack what it was made of, or copy the folder")
    if (type(data).partition, type(data).divide) != (DataModule.partition, DataModule.divide):
        raise UserError(
            f"{type(data).__name__} says itself what is for training and what for tests, which shards do not; keep it "
            "as it is, or pack a folder of its training pictures"
        )
    source, pictures = data.source(), data.pictures()
    spread = SPREAD
    if isinstance(pictures, Sequence):
        order = torch.randperm(len(pictures), generator=generator(seed, "pack")).tolist()
        pictures, spread = map(pictures.__getitem__, order), 1
    elif pictures is None:
        pictures = from_blocks(data, format)
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(folder.parent)
    temporary = beside(folder)
    with held(temporary):
        try:
            temporary.mkdir()
            packing = Packing(temporary, shard_bytes, spread, seed)
            for picture, encoded in read(pictures, side, format, source.count):
                packing.add(picture, encoded)
            packing.check(data.noun, data.max_unreadable)
            classes = tuple(source.names) or tuple(map(str, range(source.classes)))
            index = packing.finish(classes, {e: channels_of(e, data.hint_channels) for e in packing.hints})
            if left_out := [*source.left_out, *packing.left_out]:
                write_whole(temporary / LEFT_OUT, table(left_out))
            write_whole(temporary / INDEX, index.text())
            if folder.is_dir():
                folder.rmdir()  # new and empty
            os.rename(temporary, folder)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {reason(error)}; choose another folder") from error
    if left_out:
        remark(f"left out of the data: {summary(left_out)}; {folder / LEFT_OUT} lists all")
    return index


@dataclass
class Packing:
    """Shards that are being written. Pictures are dealt to ``spread`` of them at random, by ``seed``."""

    folder: Path
    shard_bytes: int
    spread: int
    seed: int
    left_out: list[LeftOut] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    grey: bool = True
    count: int = 0
    hints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._writers: list[ShardWriter] = []
        self._full: list[ShardWriter] = []
        self._deal = generator(self.seed, "deal")

    def add(self, picture: Picture, encoded: Encoded | str) -> None:
        if isinstance(encoded, str):
            self.left_out.append(LeftOut(picture.name, UNREADABLE, encoded))
            return
        self.count += 1
        self.sizes[encoded.size] += 1
        self.grey &= encoded.grey
        self.hints = tuple(encoded.hints)
        if len(self._writers) < self.spread:
            self._writers.append(self._next())
        k = int(torch.randint(len(self._writers), (), generator=self._deal)) if self.spread > 1 else 0
        writer = self._writers[k]
        height, width = encoded.size
        known = {LABEL: picture.label, TEXT: picture.caption, GROUP: picture.group, HEIGHT: height, WIDTH: width}
        writer.add({"image": encoded.image, **encoded.hints}, known)
        if writer.bytes >= self.shard_bytes:
            writer.close()
            self._writers[k] = self._next()

    def _next(self) -> ShardWriter:
        made = ShardWriter(self.folder / f"{len(self._full):05d}.arrow")
        self._full.append(made)
        return made

    def check(self, noun: str, max_unreadable: float) -> None:
        """Raises ``UserError`` where too many were left out, or all."""
        total = self.count + len(self.left_out)
        if len(self.left_out) > max_unreadable * total:
            raise UserError(
                f"{len(self.left_out):,} of {counted(total, noun)} cannot be read: {summary(self.left_out)}; repair or "
                "remove them, or set data.max_unreadable to a larger share"
            )
        if not self.count:
            raise UserError("the data hold no samples; give a source that has some")

    def finish(self, classes: tuple[str, ...], hints: dict[str, int]) -> Index:
        """Close all shards and write what is known of each picture."""
        written = [writer for writer in self._full if writer.count]
        for writer in self._full:
            writer.close()
        columns = tuple(name for name, values in written[0].known.items() if values[0] is not None)
        known = {name: [value for writer in written for value in writer.known[name]] for name in columns}
        return Index(
            tuple(writer.file() for writer in written),
            write_known(self.folder, known),
            Shapes(self.sizes, self.grey),
            columns,
            classes if LABEL in columns else (),
            hints,
        )


def read(
    pictures: Iterable[Picture], side: int | None, format: Format, total: int | None
) -> Iterator[tuple[Picture, Encoded | str]]:
    """Each picture as it is to be stored, or the reason why it cannot be read."""
    rest = iter(pictures)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        warnings_off(),
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        Progress(*columns, transient=True) as progress,
    ):
        task = progress.add_task("Packing", total=total)
        while part := list(islice(rest, AT_ONCE)):
            yield from zip(part, pool.map(lambda picture: stored(picture, side, format), part), strict=True)
            progress.update(task, advance=len(part))


def stored(picture: Picture, side: int | None, format: Format) -> Encoded | str:
    try:
        image, size, grey, natural = encoded(picture.file, side, format)
        hints = {}
        for entry, file in picture.hints.items():
            hints[entry], _, _, other = encoded(file, side, format)
            check_alike(picture.name, natural, other)
        return Encoded(image, hints, size, grey)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        return reason(error)


def encoded(
    file: Path | bytes, side: int | None, format: Format
) -> tuple[bytes, tuple[int, int], bool, tuple[int, int]]:
    """The bytes to store, their size (height, width), whether they are grey, and the size (width, height) before."""
    picture = load_image(opened(file))
    grey = is_grey(picture)
    width, height = picture.size
    if side is None or min(width, height) <= side:
        return file.read_bytes() if isinstance(file, Path) else file, (height, width), grey, picture.size
    scale = side / min(width, height)
    size = max(round(height * scale), side), max(round(width * scale), side)
    transparent = picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info
    small = fit(picture, 4 if transparent else 1 if grey else 3, size)
    return as_file(small, format), size, grey, picture.size


def as_file(pixels: np.ndarray, format: Format) -> bytes:
    """The file of a picture (C, H, W), uint8; one with opacity is no JPEG but PNG."""
    stream = io.BytesIO()
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.save(stream, **SAVED["png" if len(pixels) == 4 and format == "jpeg" else format])
    return stream.getvalue()


def from_blocks(data: ImageData, format: Format) -> Iterator[Picture]:
    """Decoded pictures, encoded."""
    number = 0
    for block in data.source().blocks():
        for i, pixels in enumerate(block.samples):
            yield Picture(
                f"picture {number}",
                as_file(pixels, format),
                None if block.labels is None else int(block.labels[i]),
                None if block.captions is None else block.captions[i],
                None if block.groups is None else int(block.groups[i]),
                {entry: as_file(hints[i], format) for entry, hints in block.hints.items()},
            )
            number += 1
