"""Files that are whole or as they were before: written beside their place, brought to the disk, and renamed."""

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"  # ends the name of what is being written


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of ``path`` when the block ends: a path in the same folder.

    After that it survives a loss of power. Where the block or the disk fails, ``path`` is as it was and nothing else is
    left; a kill can leave the partial file (``clear_partial``).
    """
    partial = path.with_name(f"{path.name}{PARTIAL}")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
        with contextlib.suppress(OSError):  # not every file system can do this for a folder
            sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)  # also where both were the same file: then a rename does nothing


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """``replaced``, open for writing. A failed write raises its ``OSError`` whatever the writer makes of it."""
    with replaced(path) as partial:
        raw = _Noting(partial, "wb")
        try:
            with io.BufferedWriter(raw, 2**20) as file:
                yield file
        except Exception as error:
            if raw.failure is None or raw.failure is error:
                raise
            raise raw.failure from error


class _Noting(io.FileIO):
    """Keeps the first failure: libraries that write report it in words of their own."""

    failure: OSError | None = None

    def write(self, data) -> int | None:  # type: ignore[no-untyped-def]
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise


def sync(path: Path) -> None:
    """What was written to ``path``, or renamed in the folder ``path``, is on the disk afterwards."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link(source: Path, target: Path) -> None:
    """``target`` becomes another name of the file ``source``, or a copy where the file system has one name for each."""
    with replaced(target) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def clear_partial(folder: Path) -> None:
    """Remove what a killed process was writing in ``folder``; nobody else may be writing there."""
    for path in folder.glob(f"*{PARTIAL}"):
        with contextlib.suppress(OSError):
            path.unlink()


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
