"""Rows of the Arrow files of a packed folder: pictures are decoded when they are asked for."""

import hashlib
import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from oboro.base.errors import UserError
from oboro.data.decode_or_skip import reason
from oboro.data.optional import library
from oboro.data.shard_copies import Files
from oboro.data.shards import IMAGE, SUM, File, Index
from oboro.data.store import Store
from oboro.modality.decode_image import fit, load_image, warnings_off

KEPT_OPEN = 64  # shards of a process: a file that is removed keeps its room on the disk while it is open


def arrow() -> Any:
    """The library that reads the files."""
    return library("pyarrow", "streaming")


class Rows:
    """An Arrow IPC file, mapped into memory: ``column(name, row)`` is a view of bytes that copies nothing."""

    def __init__(self, path: Path):
        self.path = path
        pyarrow = arrow()
        reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        self._batches = [reader.get_batch(k) for k in range(reader.num_record_batches)]
        self._first = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self.count = int(self._first[-1])

    def column(self, name: str, row: int) -> Any:
        """An Arrow scalar."""
        k = int(np.searchsorted(self._first, row, "right")) - 1
        return self._batches[k].column(name)[row - int(self._first[k])]

    def numbers(self, name: str) -> np.ndarray:
        """A whole column of integers (n,), int64."""
        return np.concatenate([batch.column(name).to_numpy(zero_copy_only=False) for batch in self._batches]).astype(
            np.int64
        )


class Shards:
    """The pictures of a packed folder by their numbers, encoded, from ``files``: the folder, or copies of it. A copy of
    this in a loader worker opens the files anew.

    Raises ``UserError`` for what is damaged, and cannot be fetched again.
    """

    def __init__(self, index: Index, files: Files):
        self.index, self._files = index, files
        self._first = np.cumsum([0, *(shard.count for shard in index.shards)])
        self._opened: OrderedDict[int, Rows] = OrderedDict()

    def picture(self, entry: str, number: int) -> tuple[Any, str]:
        """The bytes of a file, and what messages call it."""
        shard = int(np.searchsorted(self._first, number, "right")) - 1
        file, row = self.index.shards[shard], int(number - self._first[shard])
        for again in (False, True):
            rows = self._rows(shard)
            encoded = rows.column(entry, row).as_buffer()
            if zlib.crc32(encoded) == rows.column(entry + SUM, row).as_py():
                break
            if again or not self._files.renew(file):
                raise damaged(f"row {row} of {rows.path}", "its checksum is wrong")
            del self._opened[shard]
        return encoded, f"row {row} of {rows.path}"

    def _rows(self, shard: int) -> Rows:
        opened = self._opened.get(shard)
        if opened is None:
            opened = self._opened[shard] = opened_rows(self._files, self.index.shards[shard])
            if len(self._opened) > KEPT_OPEN:
                self._opened.popitem(last=False)
        self._opened.move_to_end(shard)
        return opened

    def __getstate__(self) -> dict:
        return {**vars(self), "_opened": OrderedDict()}


def opened_rows(files: Files, file: File, whole: bool = False) -> Rows:
    """``file`` of ``files``, if it has its bytes and rows; ``whole``: and its SHA-256. Mapping one that is too short
    would end the process (SIGBUS). A copy that is damaged is fetched again; raises ``UserError`` for others."""
    for again in (False, True):
        path = files(file)
        why = damage(path, file, whole)
        if not why:
            return Rows(path)
        if again or not files.renew(file):
            raise damaged(str(path), why)
    raise AssertionError


def damage(path: Path, file: File, whole: bool) -> str:
    """What is wrong with the file at ``path``, in words; nothing where it is as it was written."""
    try:
        if path.stat().st_size != file.bytes:
            return f"it has {path.stat().st_size:,} bytes and had {file.bytes:,}"
        if whole and sha256(path) != file.sha256:
            return "its checksum is wrong"
        rows = Rows(path)
        return "" if rows.count == file.count else f"it has {rows.count:,} rows and had {file.count:,}"
    except FileNotFoundError:
        return "it is missing"
    except (OSError, arrow().ArrowException) as error:
        return reason(error)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(name: str, why: str) -> UserError:
    return UserError(f"{name} is damaged ({why}); copy or pack that folder again")


@dataclass(frozen=True)
class Packed(Store):
    """All pictures of a packed folder, each made to fit (C, H, W) of ``shape``."""

    shape: tuple[int, ...]
    labels: np.ndarray | None
    captions: "Texts | None"
    groups: np.ndarray | None
    hint_shapes: Mapping[str, tuple[int, ...]]
    fingerprint: str
    shards: Shards

    def samples(self, rows: np.ndarray, entry: str | None = None) -> "EncodedArray":
        if entry is None:
            return EncodedArray(self.shards, rows, self.shape[1:])
        return EncodedArray(self.shards, rows, self.hint_shapes[entry][1:], entry)

    def sized(
        self, rows: np.ndarray, sizes: Sequence[tuple[int, int]], numbers: np.ndarray, entry: str | None = None
    ) -> "SizedArray":
        """As ``samples``, each of the size (height, width) of its number (len(rows),) in ``sizes``."""
        return SizedArray(self.samples(rows, entry), sizes, numbers)

    def texts(self, rows: np.ndarray) -> "Texts | None":
        return None if self.captions is None else self.captions.at(rows)


class EncodedArray:
    """Pictures of a packed folder: ``array[indices]`` decodes them to a fresh tensor (len(indices), C, H, W), uint8,
    each made to fit ``shape`` (C, H, W) as ``decode_image.fit`` says. As ``SampleArray`` otherwise.

    Pictures are decoded in threads, in a loader worker one after the other: there are others of it.
    """

    def __init__(self, shards: Shards, rows: np.ndarray, shape: tuple[int, ...], entry: str = IMAGE):
        self.shards, self._entry = shards, entry
        self.rows = np.ascontiguousarray(rows, dtype=np.int64)
        self.shape = (len(rows), *shape)
        of = f"{shards.index.fingerprint} {entry} {shape}"
        self.fingerprint = hashlib.sha256(of.encode() + self.rows.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor | np.ndarray | list[int] | slice | int) -> Tensor:
        height, width = self.shape[2:]
        return self.taken(indices, (height, width))

    def taken(self, indices: Tensor | np.ndarray | list[int] | slice | int, size: tuple[int, int]) -> Tensor:
        """Those at ``indices``, made to fit another ``size`` (height, width)."""
        rows = self.rows[indices.cpu().numpy() if isinstance(indices, Tensor) else indices]
        encoded = [self.shards.picture(self._entry, number) for number in np.atleast_1d(rows)]
        threads = 1 if get_worker_info() else min(8, os.cpu_count() or 1, len(encoded))
        with warnings_off():
            if threads > 1:
                with ThreadPoolExecutor(threads) as pool:
                    images = list(pool.map(partial(self._decoded, size=size), encoded))
            else:
                images = [self._decoded(each, size) for each in encoded]
        taken = torch.from_numpy(np.stack(images) if images else np.empty((0, self.shape[1], *size), np.uint8))
        return taken if rows.ndim else taken[0]

    def _decoded(self, picture: tuple[Any, str], size: tuple[int, int]) -> np.ndarray:
        encoded, name = picture
        try:
            return fit(load_image(BytesIO(encoded)), self.shape[1], size)
        except Exception as error:  # Pillow raises almost anything
            raise damaged(name, reason(error)) from error


class SizedArray:
    """Pictures of several ``sizes`` (height, width), of which ``numbers`` (n,) says those of each: ``array[indices]``
    is for those of one size."""

    def __init__(self, pictures: EncodedArray, sizes: Sequence[tuple[int, int]], numbers: np.ndarray):
        self._pictures, self._sizes, self._numbers = pictures, list(sizes), numbers
        self.shape, self.rows = pictures.shape, pictures.rows
        of = f"{pictures.fingerprint} {self._sizes}"
        self.fingerprint = hashlib.sha256(of.encode() + numbers.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, indices: Tensor | np.ndarray | list[int] | slice | int) -> Tensor:
        numbers = self._numbers[indices.cpu().numpy() if isinstance(indices, Tensor) else indices]
        first, *others = np.unique(numbers).tolist()
        if others:
            raise ValueError("these pictures are of several sizes")
        return self._pictures.taken(indices, self._sizes[first])


class Texts(Sequence[str]):
    """Texts of the rows of ``known.arrow``, read when they are asked for; not pickled but opened anew."""

    def __init__(self, opened: Callable[[], Rows], column: str, rows: np.ndarray):
        self._open, self._column, self._rows = opened, column, rows
        self._file: Rows | None = None

    def at(self, rows: np.ndarray) -> "Texts":
        """Those of some rows of these."""
        return Texts(self._open, self._column, self._rows[rows])

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if self._file is None:
            self._file = self._open()
        if isinstance(index, slice):
            return [self._file.column(self._column, int(row)).as_py() for row in self._rows[index]]
        return self._file.column(self._column, int(self._rows[index])).as_py()

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def __getstate__(self) -> dict:
        return {**vars(self), "_file": None}
