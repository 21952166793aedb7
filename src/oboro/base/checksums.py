"""``.npy`` files with a checksum for each row, which the format has none of, and settings with one for all of them.

The sums stand behind the array, where numpy reads no more: a little-endian uint32 for each row, its CRC-32, in the
order of the rows, and last that of the header. A row is what the first ``axes`` axes count. A file that ends with its
array is of an earlier version, and read unchecked.
"""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

SUM = np.dtype("<u4")
SEAL = "checksum"  # of settings
MARK = ".damaged"  # ends the name of the empty file that says so of the array beside it
AT_ONCE = 2**28  # bytes of an array that is checked whole when it is opened: a tenth of a second


class Damaged(ValueError):
    """A file whose content is not what was written."""


def sums(rows: np.ndarray, axes: int = 1) -> np.ndarray:
    """The CRC-32 of the bytes of each row, (n,) uint32."""
    flat = np.ascontiguousarray(rows).reshape(prod(rows.shape[:axes]), -1)
    return np.fromiter((zlib.crc32(row.data) for row in flat.view(np.uint8)), SUM, len(flat))


def checksum(path: Path) -> int:
    """The CRC-32 of a whole file."""
    return zlib.crc32(path.read_bytes())


def sealed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` of plain values with their checksum."""
    return {**settings, SEAL: _seal(settings)}


def unsealed(settings: Any) -> dict[str, Any]:
    """What was ``sealed``; of an earlier version, unchecked. Raises ``Damaged``."""
    if not isinstance(settings, dict):
        raise Damaged("it has no settings")
    plain = {key: value for key, value in settings.items() if key != SEAL}
    if settings.get(SEAL, (right := _seal(plain))) != right:
        raise Damaged("the checksum of its settings is wrong")
    return plain


def _seal(settings: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(settings, sort_keys=True).encode())


class GrowingArray:
    """A new ``.npy`` file of samples of one type and shape, one block after the other. Raises ``OSError``."""

    def __init__(self, path: Path, dtype: np.dtype, shape: Sequence[int]):
        self.dtype, self.shape, self.count = dtype, tuple(shape), 0
        self._file = path.open("wb")
        self._sums: list[np.ndarray] = []
        self._header()

    def append(self, block: np.ndarray) -> np.ndarray:
        """The block as it was written."""
        if block.shape[1:] != self.shape or block.dtype != self.dtype:
            raise ValueError(f"decoded {block.dtype} {block.shape[1:]}, expected {self.dtype} {self.shape}")
        block = np.ascontiguousarray(block)
        self._file.write(block.data)
        self._sums.append(sums(block))
        self.count += len(block)
        return block

    def close(self) -> None:
        with self._file:
            for rows in self._sums:
                self._file.write(rows.data)
            self._file.seek(0)
            header = self._header()  # as long as the first one: the format pads for a growing first axis
            self._file.seek(0, os.SEEK_END)
            self._file.write(np.array(zlib.crc32(header), SUM).tobytes())
            self._file.flush()
            os.fsync(self._file.fileno())

    def _header(self) -> bytes:
        header = header_of(self.dtype, (self.count, *self.shape))
        self._file.write(header)
        return header


def header_of(dtype: np.dtype, shape: Sequence[int]) -> bytes:
    class Kept:
        content = b""

        def write(self, part: bytes) -> None:
            self.content += part

    kept = Kept()
    head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(kept, head)
    return kept.content


def create_array(path: Path, shape: Sequence[int], axes: int = 1) -> None:
    """A new file of float32 zeros for ``WrittenArray``, with its room on the disk taken: of what is mapped, a page that
    finds none ends the process without a word (SIGBUS). Raises ``OSError``."""
    header = header_of(np.dtype(np.float32), shape)
    size = len(header) + 4 * prod(shape) + SUM.itemsize * (prod(shape[:axes]) + 1)
    with path.open("xb") as file:
        file.write(header)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        file.seek(size - SUM.itemsize)
        file.write(np.array(zlib.crc32(header), SUM).tobytes())


class WrittenArray:
    """The array that ``create_array`` made, mapped: ``array[place] = rows`` writes rows and their sums. ``place`` has
    slices of the first ``axes`` axes. Processes that share the file write different rows."""

    def __init__(self, path: Path, axes: int = 1):
        self.array = np.load(path, mmap_mode="r+", allow_pickle=False)
        self._axes, shape = axes, self.array.shape[:axes]
        self._sums = np.memmap(path, SUM, "r+", self.array.offset + self.array.nbytes, shape)

    def __setitem__(self, place: slice | tuple[slice, ...], rows: np.ndarray) -> None:
        self.array[place] = rows
        written = np.asarray(self.array[place])
        self._sums[place] = sums(written, self._axes).reshape(written.shape[: self._axes])

    def flush(self) -> None:
        self.array.flush()
        self._sums.flush()


class CheckedArray:
    """The array in the file ``path``, mapped: ``take(index, ...)`` are the rows at these numbers, one array for each of
    the first ``axes`` axes, each held against its sum when it is first read.

    Raises ``Damaged`` for a row that is not what was written, and from then on, in all processes, when it is opened:
    a file beside it says so. Raises ``OSError`` or ``EOFError`` where it cannot be read.
    """

    def __init__(self, path: Path, axes: int = 1):
        self.path, self._axes = path, axes
        if _mark(path).exists():
            raise Damaged("a row is not what was written")
        mapped = _mapped(path)
        if not mapped.flags.c_contiguous or mapped.dtype.hasobject:
            raise Damaged("its rows do not stand one after the other")
        self.array = np.asarray(mapped)
        self._sums = self._read_sums(mapped.offset + mapped.nbytes, mapped.offset)
        self._known = np.zeros(prod(self.array.shape[:axes]), bool)  # rows that were held against their sums

    def _read_sums(self, start: int, header: int) -> np.ndarray | None:
        count, size = prod(self.array.shape[: self._axes]), self.path.stat().st_size
        if size == start:
            return None
        if size != start + SUM.itemsize * (count + 1):
            raise Damaged("its length is not that of its array")
        with self.path.open("rb") as file:
            of_header = zlib.crc32(file.read(header))
            file.seek(size - SUM.itemsize)
            if file.read() != np.array(of_header, SUM).tobytes():
                raise Damaged("the checksum of its header is wrong")
        return np.fromfile(self.path, SUM, count, offset=start)

    def take(self, *index: np.ndarray) -> np.ndarray:
        """A copy of the rows, (n, ...)."""
        rows = self.array[index]
        if self._sums is not None:
            places = np.ravel_multi_index(index, self.array.shape[: self._axes])
            self._hold(rows, places, self._sums)
        return rows

    def check(self) -> None:
        """Holds all rows against their sums, four gigabytes a second of what is in memory."""
        if self._sums is not None:
            flat = self.array.reshape(len(self._known), *self.array.shape[self._axes :])
            self._hold(flat, np.arange(len(flat)), self._sums)

    def _hold(self, rows: np.ndarray, places: np.ndarray, right: np.ndarray) -> None:
        new = ~self._known[places]
        if not new.any():
            return
        every = new.all()
        wrong = sums(rows if every else rows[new]) != right[places if every else places[new]]
        if wrong.any():
            with suppress(OSError):
                _mark(self.path).touch()
            raise Damaged(f"row {places[new][wrong.argmax()]} is not what was written")
        self._known[places] = True


def _mapped(path: Path) -> np.memmap:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError):
        raise
    except Exception as error:  # of a header numpy makes a program of Python, which fails in a dozen ways
        raise Damaged(f"it is no array ({type(error).__name__})") from error


@lru_cache(maxsize=256)
def _check_once(path: Path, axes: int, modified: int, size: int, number: int) -> None:
    CheckedArray(path, axes).check()


def open_checked(path: Path, axes: int = 1) -> CheckedArray:
    """The array in ``path``; one of up to 256 MB is checked whole, once in a process unless the file changes. Raises
    ``Damaged``, ``OSError``, ``EOFError`` or ``ValueError``."""
    opened, status = CheckedArray(path, axes), path.stat()
    if opened.array.nbytes <= AT_ONCE:
        _check_once(path, axes, status.st_mtime_ns, status.st_size, status.st_ino)
    return opened


def _mark(path: Path) -> Path:
    return path.with_name(path.name + MARK)


def unmark(path: Path) -> None:
    """Forget that ``path`` was damaged: another file has taken its place."""
    _mark(path).unlink(missing_ok=True)
