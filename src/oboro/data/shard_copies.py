"""Files of a folder elsewhere, copied to this machine as they are needed, within a bound."""

import hashlib
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import fsspec
from filelock import FileLock

from oboro.base.errors import UserError
from oboro.base.remark import remark
from oboro.base.secret import visible
from oboro.base.temporary import TEMPORARY, beside, clear_abandoned, held
from oboro.data.cache import writing
from oboro.data.shards import File

ATTEMPTS = 5  # to copy a file, after 1, 2, 4 and 8 seconds
AT_ONCE = 4  # files that are fetched ahead at the same time
PART = 2**22
SUFFIX, LOCKS = ".arrow", "locks"


def is_elsewhere(root: str) -> bool:
    return "://" in root


class Files(Protocol):
    """The files of a packed folder."""

    def read(self, name: str) -> str:
        """The text of a small file. Raises ``OSError``, or ``UserError`` with the reason."""

    def __call__(self, file: File) -> Path:
        """Where it is on this machine, perhaps after a while."""

    def renew(self, file: File) -> bool:
        """It is damaged: whether it will be another one when it is asked for again."""

    def ahead(self, files: Iterable[File]) -> None:
        """These are wanted soon."""


class Here:
    """A folder of this machine: nothing is copied."""

    def __init__(self, root: str):
        self.root = Path(root).expanduser()

    def read(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8")

    def __call__(self, file: File) -> Path:
        return self.root / file.name

    def renew(self, file: File) -> bool:
        return False

    def ahead(self, files: Iterable[File]) -> None:
        return None


class Copies:
    """The files below the address ``root`` (``s3://``, ``gs://``, ``https://``, whatever the library fsspec opens),
    copied into ``folder`` when they are first asked for. All processes of a machine share the copies.

    Where they are more than ``limit`` bytes, those that were used longest ago are removed. A copy is held against the
    SHA-256 of its ``File``. Raises ``UserError`` where a file cannot be had in ``ATTEMPTS``, or is another one.
    """

    def __init__(self, root: str, folder: Path, limit: float):
        self.root, self.limit = root.rstrip("/"), limit
        self.folder = folder / hashlib.sha256(self.root.encode()).hexdigest()[:32]
        self._wanted: SimpleQueue[File] | None = None

    def read(self, name: str) -> str:
        """Fetched each time."""
        try:
            with self._open(name) as file:
                return file.read().decode()
        except Exception as error:
            raise self._missing(name, error) from error

    def __call__(self, file: File) -> Path:
        return self._have(file, ATTEMPTS)

    def renew(self, file: File) -> bool:
        path = self._path(file)
        remark(f"{path}, a copy of {visible(self.root)}/{file.name}, is damaged: it is fetched again")
        with suppress(OSError):
            path.unlink()
        return True

    def _path(self, file: File) -> Path:
        """Named by its content: another file that takes its name there has another copy."""
        return self.folder / f"{file.sha256[:32]}{SUFFIX}"

    def _have(self, file: File, attempts: int) -> Path:
        path = self._path(file)
        if not path.exists():
            with writing(self.folder):
                (self.folder / LOCKS).mkdir(parents=True, exist_ok=True)
                clear_abandoned(self.folder)
            with FileLock(self.folder / LOCKS / path.name):
                if not path.exists():  # another process has fetched it meanwhile
                    self._fetch(file, path, attempts)
        with suppress(OSError):
            os.utime(path)
        return path

    def ahead(self, files: Iterable[File]) -> None:
        """Fetch in the background; what fails is tried again by whoever needs it, who hears of it."""
        if self._wanted is None:
            self._wanted = SimpleQueue()
            for _ in range(AT_ONCE):  # a run that ends does not wait for them
                threading.Thread(target=self._fetch_wanted, args=(self._wanted,), daemon=True).start()
        for file in files:
            self._wanted.put(file)

    def _fetch_wanted(self, wanted: SimpleQueue[File]) -> None:
        while True:
            with suppress(UserError, OSError):
                self._have(wanted.get(), attempts=1)

    def _take_room(self, path: Path, size: int) -> None:
        """An empty file of ``size`` bytes; what was used longest ago is removed, so that all files together are within
        the limit, those that others are fetching included."""
        with FileLock(self.folder / LOCKS / "room"), writing(self.folder):
            files = [file for file in self.folder.iterdir() if file.name.endswith((SUFFIX, TEMPORARY))]
            used = sum(file.stat().st_size for file in files)
            copies = sorted((file.stat().st_mtime, file) for file in files if file.name.endswith(SUFFIX))
            for _, file in copies:
                if used + size <= self.limit:
                    break
                used -= file.stat().st_size
                file.unlink()
            with path.open("wb") as empty:
                empty.truncate(size)

    def _fetch(self, file: File, path: Path, attempts: int) -> None:
        for attempt in range(attempts):
            try:
                return self._copy(file, path)
            except UserError:
                raise
            except Exception as error:  # a library for each kind of address, each with its own
                if attempt + 1 == attempts:
                    raise self._missing(file.name, error) from error
                if attempt == 0:
                    remark(f"{visible(self.root)}/{file.name} could not be fetched ({why(error)}): once more")
                time.sleep(2**attempt)

    def _copy(self, file: File, path: Path) -> None:
        temporary, digest = beside(path), hashlib.sha256()
        with held(temporary), self._open(file.name) as source:
            self._take_room(temporary, file.bytes)
            with writing(self.folder), temporary.open("r+b") as copy:
                while part := source.read(PART):
                    digest.update(part)
                    copy.write(part)
            if digest.hexdigest() != file.sha256:
                raise UserError(
                    f"{visible(self.root)}/{file.name} is not what index.json there says it is; pack or copy that "
                    "folder again"
                )
            os.replace(temporary, path)

    def _open(self, name: str) -> Any:
        return fsspec.open(f"{self.root}/{name}", "rb")

    def _missing(self, name: str, error: Exception) -> UserError:
        return UserError(
            f"cannot read {visible(self.root)}/{name}: {visible(why(error))}; correct data.root, or try again"
        )

    def __getstate__(self) -> dict:
        return {**vars(self), "_wanted": None}


def why(error: BaseException) -> str:
    """The reason of a library that says ``FileNotFoundError(address)`` for all that can happen."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__
