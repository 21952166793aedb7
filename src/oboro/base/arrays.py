"""Arrays in files that others wrote: their headers are read first, and nothing is unpickled."""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from oboro.base.errors import UserError

# Beyond so many bytes an array of an archive may not be larger than so many times what is stored of it.
LARGE, DENSEST = 2**30, 100
NPY, ZIP = b"\x93NUMPY", b"PK"


@dataclass(frozen=True)
class FileArray:
    """An array in a file: what its header says, and ``read``, which gives it in the byte order of this machine."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class Damaged(ValueError):
    """Why a file holds no array; one clause without a full stop."""


def arrays_in(path: Path, names: Sequence[str], remedy: str) -> dict[str, FileArray]:
    """Those of ``names`` that the ``.npz`` file has. The memory of an array is bounded by the size of the file.

    Raises ``UserError``, which ends with the ``remedy``, for a file that is none, and where an array is read, for one
    that is damaged.
    """
    try:
        if first_bytes(path).startswith(NPY):
            raise Damaged("it holds one array of numpy.save")
        with zipfile.ZipFile(path) as archive:
            members = {name: f"{name}.npy" for name in names if f"{name}.npy" in archive.NameToInfo}
            return {name: _member(path, archive, member, remedy) for name, member in members.items()}
    except Exception as error:  # zipfile and numpy answer damage with a dozen types
        raise _refusal(path, error, remedy) from error


def array_in(path: Path, remedy: str) -> FileArray:
    """The array of an ``.npy`` file, mapped (changes stay in memory) and not copied. Raises as ``arrays_in``."""
    try:
        if first_bytes(path).startswith(ZIP):
            raise Damaged("it holds an archive of arrays")
        with path.open("rb") as file:
            shape, dtype = _header(file)
            wanted, there = prod(shape) * dtype.itemsize, path.stat().st_size - file.tell()
        if wanted > there:
            raise Damaged(f"its header announces {wanted:,} bytes and {there:,} follow")
    except Exception as error:
        raise _refusal(path, error, remedy) from error
    return FileArray(shape, dtype, lambda: _native(np.load(path, mmap_mode="c", allow_pickle=False)))


def first_bytes(path: Path, count: int = 8) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _member(path: Path, archive: zipfile.ZipFile, member: str, remedy: str) -> FileArray:
    info = archive.getinfo(member)
    with archive.open(info) as file:
        shape, dtype = _header(file)
        announced, held = prod(shape) * dtype.itemsize, info.file_size - file.tell()
    if announced != held:
        raise Damaged(f"the header of {member} announces {announced:,} bytes and {held:,} follow")
    if announced > max(LARGE, DENSEST * info.compress_size):
        raise Damaged(f"{member} would unpack {info.compress_size:,} bytes to {announced:,}")

    def read() -> np.ndarray:
        try:
            with zipfile.ZipFile(path) as whole, whole.open(member) as file:
                return _native(npy.read_array(file, allow_pickle=False))
        except Exception as error:
            raise _refusal(path, error, remedy) from error

    return FileArray(shape, dtype, read)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type; the file is then at the first number."""
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, _, dtype = read(file)
    except Exception as error:  # of the parser; its advice is to unpickle
        raise Damaged("the header of its array is damaged") from error
    if dtype.hasobject:
        raise Damaged("it holds pickled objects, which can run code when they are read")
    if dtype.names or not all(type(n) is int and n >= 0 for n in shape):
        raise Damaged("its array is no plain one")
    return shape, dtype


def _native(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _refusal(path: Path, error: Exception, remedy: str) -> UserError:
    return UserError(f"{path} cannot be read ({reason_of(error)}); {remedy}.")


def reason_of(error: Exception) -> str:
    """Why a file could not be read, in a clause: libraries tell of paths, pickles and lines of their own."""
    reasons: dict[type[Exception], str] = {
        FileNotFoundError: "there is no such file",
        IsADirectoryError: "it is a folder",
        PermissionError: "its permissions forbid it",
        MemoryError: "it does not fit into memory",
        EOFError: "it ends too early",
        zipfile.BadZipFile: "it is damaged or no archive",
    }
    known: Any = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), None)
    return str(error) if isinstance(error, Damaged) else known or "it is damaged"
