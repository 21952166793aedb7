"""Decode once, memory-map ever after.

A folder of the cache holds ``images.npy`` (N, C, H, W) uint8, ``labels.npy`` (N,) int64, ``groups.npy`` (N,) int64 and
``captions.json`` where the source has them, and ``meta.json``. It is written beside its final place and renamed, so it
is either whole or absent. Changed sizes and shapes are noticed when it is opened and lead to a new decode; flipped bits
inside of it are not.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from oboro.base.errors import UserError

LOCK = ".lock"


@dataclass(frozen=True)
class Block:
    """Consecutive decoded images (n, C, H, W) uint8 with their labels (n,) and captions, if the source has any.

    Images of equal ``groups`` (n,), any integers, show so much the same that none may be held out while another is
    trained on.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    captions: list[str] | None = None
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class Source:
    """What a data set is before it is decoded.

    ``key`` changes whenever decoding would give something else, ``classes`` is the number of classes that the labels
    name (0 = unlabelled) and ``blocks()`` decodes. Every block has labels or none has; captions and groups likewise.
    """

    key: str
    classes: int
    blocks: Callable[[], Iterator[Block]]


@dataclass(frozen=True)
class CachedImages:
    """An opened folder of the cache. ``fingerprint`` is the SHA-256 of everything decoded, so it survives a move."""

    path: Path
    shape: tuple[int, int, int, int]
    labels: np.ndarray | None
    captions: list[str] | None
    groups: np.ndarray | None
    fingerprint: str


class ImageArray:
    """Rows of a memory-mapped image array: ``array[indices]`` is a fresh uint8 tensor of shape (len(indices), C, H, W).

    The file is mapped on first use and not pickled, so a copy in a loader worker costs its row numbers alone.
    ``fingerprint`` identifies these rows of these images.
    """

    def __init__(self, cached: CachedImages, rows: np.ndarray):
        self._path = cached.path / "images.npy"
        self._rows = np.ascontiguousarray(rows, dtype=np.int64)
        self._images: np.ndarray | None = None
        self.shape = (len(rows), *cached.shape[1:])
        self.fingerprint = hashlib.sha256(cached.fingerprint.encode() + self._rows.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> np.ndarray:
        """Which images of the cache these are, (n,) int64."""
        return self._rows

    def __getitem__(self, indices: Tensor | np.ndarray | list[int] | slice | int) -> Tensor:
        if self._images is None:
            self._images = np.asarray(np.load(self._path, mmap_mode="r", allow_pickle=False))
        rows = self._rows[indices.cpu().numpy() if isinstance(indices, Tensor) else indices]
        return torch.from_numpy(np.take(self._images, rows, axis=0))

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_images": None}


def beside(path: Path) -> Path:
    """An unused temporary path in the folder of ``path``, from where a rename to ``path`` is atomic."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/oboro``, by default ``~/.cache/oboro``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oboro"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write below ``folder`` into a ``UserError`` with the remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write to the cache {folder}: {reason}; set data.cache_dir=<writable folder>"
        ) from error


def check_room(folder: Path, needed: int, what: str, callback: str) -> None:
    """Raises ``UserError`` unless ``needed`` bytes are free where ``folder``, which exists, is."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{what} take {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB left; set "
            f"data.cache_dir=<another folder>, or leave {callback} out."
        )


def open_cached(folder: Path) -> CachedImages | None:
    """The decoded images in ``folder``, or None where they are missing, damaged or written by another version."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False) if meta["labels"] else None
        captions = json.loads((folder / "captions.json").read_text(encoding="utf-8")) if meta["captions"] else None
        groups = np.load(folder / "groups.npy", allow_pickle=False) if meta.get("groups") else None
        shape, fingerprint = tuple(meta["shape"]), meta["fingerprint"]
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    whole = images.shape == shape and images.dtype == np.uint8
    whole &= labels is None or (labels.shape == shape[:1] and labels.dtype == np.int64)
    whole &= captions is None or len(captions) == shape[0]
    whole &= groups is None or (groups.shape == shape[:1] and groups.dtype == np.int64)
    return CachedImages(folder, shape, labels, captions, groups, fingerprint) if whole else None


def build(folder: Path, shape: tuple[int, int, int], blocks: Iterator[Block]) -> CachedImages:
    """Decode ``blocks`` of images of ``shape`` (C, H, W) into ``folder`` and open it.

    Of two processes that build the same folder, the one that ends last throws its copy away. Raises ``UserError``
    where the cache cannot be written, and what decoding raises; either leaves nothing behind.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = beside(folder)
        temporary.mkdir()
    try:
        _write(temporary, shape, blocks)
        # A folder cannot be exchanged for another in one step, so one process at a time looks and exchanges.
        with writing(folder), FileLock(folder.parent / LOCK):
            cached = open_cached(folder)
            if cached is None:
                shutil.rmtree(folder, ignore_errors=True)  # what is damaged
                os.rename(temporary, folder)
                cached = open_cached(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if cached is None:
        raise UserError(f"what was just written to {folder} cannot be read; set data.cache_dir=<another folder>")
    return cached


def _write(folder: Path, shape: tuple[int, int, int], blocks: Iterator[Block]) -> None:
    digest = hashlib.sha256(repr(shape).encode())
    labels: list[np.ndarray] = []
    groups: list[np.ndarray] = []
    captions: list[str] = []
    count = 0
    with open(folder / "images.npy", "wb") as file:
        _write_header(file, (count, *shape))
        for block in blocks:
            if block.images.shape[1:] != shape or block.images.dtype != np.uint8:
                raise ValueError(f"decoded {block.images.dtype} {block.images.shape[1:]}, expected uint8 {shape}")
            count += len(block.images)
            images = np.ascontiguousarray(block.images)
            digest.update(images)
            with writing(folder):
                file.write(images)
            labels += [] if block.labels is None else [block.labels]
            groups += [] if block.groups is None else [block.groups]
            captions += block.captions or []
        with writing(folder):
            file.seek(0)
            _write_header(file, (count, *shape))  # as long as the first one: the format pads for a growing first axis
            file.flush()
            os.fsync(file.fileno())
    meta = {"shape": [count, *shape], "labels": bool(labels), "captions": bool(captions), "groups": bool(groups)}
    with writing(folder):
        for name, numbers in (("labels", labels), ("groups", groups)):
            if numbers:
                joined = np.concatenate(numbers).astype(np.int64)
                digest.update(name.encode() + joined.tobytes())
                np.save(folder / f"{name}.npy", joined)
        if captions:
            text = json.dumps(captions, ensure_ascii=False)
            digest.update(b"captions" + text.encode())
            (folder / "captions.json").write_text(text, encoding="utf-8")
        (folder / "meta.json").write_text(json.dumps({**meta, "fingerprint": digest.hexdigest()}))


def _write_header(file, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
