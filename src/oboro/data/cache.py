"""Decode once, memory-map ever after.

A folder of the cache holds ``samples.npy`` (N, C, ...), ``hints.npy`` (N, C', H, W) uint8 (of other entries
``hints-<entry>.npy``), ``labels.npy`` (N,) int64, ``groups.npy`` (N,) int64 and ``captions.json`` where the source has
them, ``meta.json``, and ``decoding.json``: what could not be read. It is written beside its final place and renamed, so
it is either whole or absent.

All files have checksums: of samples and hints one for each (``oboro.base.checksums``); ``meta.json`` has those of the
other files, and its own. What is found damaged when the folder is opened is decoded anew. An array above 256 MB is not
read then: a row that is found damaged when it is first read ends the run, and the next run decodes anew.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from oboro.base.checksums import Damaged, GrowingArray, checksum, open_checked, sealed, unsealed
from oboro.base.errors import UserError
from oboro.base.json_text import json_text, parsed
from oboro.base.temporary import beside, clear_abandoned, held
from oboro.data.left_out import LeftOut
from oboro.data.mapped import Mapped
from oboro.data.store import Store

LOCK = ".lock"
DECODING = "decoding.json"
BESIDE = ("labels.npy", "groups.npy", "captions.json", DECODING)
SAMPLES, HINTS = "samples", "hints"  # arrays of a folder
HINT = "hint"  # the entry of a batch that a second picture is, where it has no other name
FORMER = "images"  # what ``SAMPLES`` was called; folders that are there already stay valid
FORMAT = "1 lanczos"  # part of every key: changes when the same source decodes to other numbers


@dataclass(frozen=True)
class Block:
    """Consecutive decoded samples (n, C, ...) with their labels (n,) and captions, if the source has any.

    Pictures are uint8 (n, C, H, W), series float32 (n, C, L). ``hints`` (n, C', H, W), uint8, by their entries in a
    batch, are further pictures that belong to each sample, of the same size. Samples of equal ``groups`` (n,), any
    integers, show so much the same that none may be held out while another is trained on. ``left_out`` are those
    between them that could not be read, ``enlarged`` is how many were smaller than they are now, and ``several`` how
    many are the first of several frames.
    """

    samples: np.ndarray
    labels: np.ndarray | None = None
    captions: list[str] | None = None
    groups: np.ndarray | None = None
    hints: Mapping[str, np.ndarray] = field(default_factory=dict)
    left_out: Sequence[LeftOut] = ()
    enlarged: int = 0
    several: int = 0


@dataclass(frozen=True)
class Source:
    """What a data set is before it is decoded.

    ``key`` changes whenever decoding would give something else, ``classes`` is the number of classes that the labels
    name (0 = unlabelled) and ``blocks()`` decodes. Every block has labels or none has; captions, groups and hints
    likewise. ``names`` are those of the classes where they have some, ``left_out`` what the source has and does not
    give, ``notes`` one line each of what else is worth knowing, and ``count`` how many samples there are to decode,
    where that is known.
    """

    key: str
    classes: int
    blocks: Callable[[], Iterator[Block]]
    names: Sequence[str] = ()
    left_out: Sequence[LeftOut] = ()
    notes: Sequence[str] = ()
    count: int | None = None


@dataclass(frozen=True)
class Cached(Store):
    """An opened folder of the cache.

    ``left_out`` are the samples that could not be read; None where the folder is older than the list.
    """

    path: Path
    shape: tuple[int, ...]
    labels: np.ndarray | None
    captions: list[str] | None
    groups: np.ndarray | None
    hint_shapes: Mapping[str, tuple[int, ...]]
    fingerprint: str
    left_out: list[LeftOut] | None = None
    enlarged: int = 0
    several: int = 0

    def samples(self, rows: np.ndarray, entry: str | None = None) -> "SampleArray":
        return SampleArray(self, rows, entry)


class SampleArray:
    """Rows of a memory-mapped array: ``array[indices]`` is a fresh tensor of shape (len(indices), C, ...).

    Those of the samples, or of the pictures that belong to them: ``entry`` is theirs in a batch. A copy in a loader
    worker costs its row numbers alone (``Mapped``). ``fingerprint`` identifies these rows of these samples.
    """

    def __init__(self, cached: Cached, rows: np.ndarray, entry: str | None = None):
        self._array = Mapped(array_path(cached.path, SAMPLES if entry is None else hints_name(entry)))
        self._rows = np.ascontiguousarray(rows, dtype=np.int64)
        self.shape = (len(rows), *(cached.shape if entry is None else cached.hint_shapes[entry])[1:])
        of = f"{cached.fingerprint}{'' if entry is None else f' {entry}'}"
        self.fingerprint = hashlib.sha256(of.encode() + self._rows.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> np.ndarray:
        """Which samples of the cache these are, (n,) int64."""
        return self._rows

    def __getitem__(self, indices: Tensor | np.ndarray | list[int] | slice | int) -> Tensor:
        rows = self._rows[indices.cpu().numpy() if isinstance(indices, Tensor) else indices]
        taken = torch.from_numpy(self._array.take(np.atleast_1d(rows)))
        return taken if rows.ndim else taken[0]


def hints_name(entry: str) -> str:
    """What the array of the pictures ``entry`` is called."""
    return HINTS if entry == HINT else f"{HINTS}-{entry}"


def array_path(folder: Path, name: str) -> Path:
    """The file of an array of ``folder``."""
    former = folder / f"{FORMER}.npy"
    return former if name == SAMPLES and former.is_file() else folder / f"{name}.npy"


def folder_of(cache_dir: Path, name: str, source: Source, shape: tuple[int, ...] | None) -> Path:
    """Where the decoded samples of a ``source`` lie that the data class ``name`` gives.

    The key is made of all that decides what is decoded: the format, the key of the source, and the ``shape`` that
    samples are made to have, None where the source alone decides.
    """
    key = hashlib.sha256(repr((FORMAT, source.key, shape)).encode()).hexdigest()
    return cache_dir / "data" / f"{name.lower()}-{key[:32]}"


def write_whole(path: Path, text: str) -> None:
    """Write a file that others see whole or not at all."""
    temporary = beside(path)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


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


def open_cached(folder: Path) -> Cached | None:
    """The decoded samples in ``folder``, or None where they are missing, damaged or written by another version."""
    try:
        meta = unsealed(parsed((folder / "meta.json").read_text()))
        check_files(folder, meta.get("checksums", {}))
        samples = open_checked(array_path(folder, SAMPLES)).array
        entries = [HINT] if meta.get("hints") is True else meta.get("hints") or []
        hints = {entry: open_checked(folder / f"{hints_name(entry)}.npy").array for entry in entries}
        labels = np.load(folder / "labels.npy", allow_pickle=False) if meta["labels"] else None
        captions = parsed((folder / "captions.json").read_text(encoding="utf-8")) if meta["captions"] else None
        groups = np.load(folder / "groups.npy", allow_pickle=False) if meta.get("groups") else None
        shape, fingerprint = tuple(meta["shape"]), meta["fingerprint"]
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    whole = samples.shape == shape and samples.dtype == np.dtype(meta.get("dtype", "uint8"))
    whole &= labels is None or (labels.shape == shape[:1] and labels.dtype == np.int64)
    whole &= captions is None or len(captions) == shape[0]
    whole &= groups is None or (groups.shape == shape[:1] and groups.dtype == np.int64)
    whole &= all(array.shape[0] == shape[0] and array.dtype == np.uint8 for array in hints.values())
    hint_shapes = {entry: array.shape for entry, array in hints.items()}
    return (
        Cached(folder, shape, labels, captions, groups, hint_shapes, fingerprint, *_decoding(folder)) if whole else None
    )


def check_files(folder: Path, sums: Mapping[str, int]) -> None:
    """Raises ``Damaged`` unless each of these files of ``folder`` has its checksum."""
    for name, right in sums.items():
        if checksum(folder / name) != right:
            raise Damaged(f"the checksum of {name} is wrong")


def _decoding(folder: Path) -> tuple[list[LeftOut] | None, int, int]:
    try:
        plain = parsed((folder / DECODING).read_text(encoding="utf-8"))
        return [LeftOut(*item) for item in plain["left_out"]], plain["enlarged"], plain["several"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, 0, 0


def build(folder: Path, blocks: Iterator[Block], shape: tuple[int, ...] | None = None) -> Cached:
    """Decode ``blocks`` of samples into ``folder`` and open it.

    ``shape`` is what a sample (C, ...) must have; None is that of the first. Of two processes that build the same
    folder, the one that ends last throws its copy away. Raises ``UserError`` where the cache cannot be written or
    nothing is decoded, and what decoding raises; either leaves nothing behind.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear_abandoned(folder.parent)
    temporary = beside(folder)
    with held(temporary):
        with writing(folder):
            temporary.mkdir()
        _write(temporary, blocks, shape)
        # A folder cannot be exchanged for another in one step, so one process at a time looks and exchanges.
        with writing(folder), FileLock(folder.parent / LOCK):
            cached = open_cached(folder)
            if cached is None:
                shutil.rmtree(folder, ignore_errors=True)  # what is damaged
                os.rename(temporary, folder)
                cached = open_cached(folder)
    if cached is None:
        raise UserError(f"what was just written to {folder} cannot be read; set data.cache_dir=<another folder>")
    return cached


def _write(folder: Path, blocks: Iterator[Block], shape: tuple[int, ...] | None) -> None:
    labels: list[np.ndarray] = []
    groups: list[np.ndarray] = []
    captions: list[str] = []
    arrays: dict[str, GrowingArray] = {}
    entries: dict[str, None] = {}  # of second pictures
    digests = {}
    left_out: list[LeftOut] = []
    enlarged = several = 0
    try:
        for block in blocks:
            left_out += block.left_out
            enlarged += block.enlarged
            several += block.several
            if not len(block.samples):
                continue
            entries |= dict.fromkeys(block.hints)
            hints = {hints_name(entry): array for entry, array in block.hints.items()}
            for name, array in {SAMPLES: block.samples, **hints}.items():
                if name not in arrays:
                    one = array.shape[1:] if shape is None or name in hints else shape
                    with writing(folder):
                        arrays[name] = GrowingArray(folder / f"{name}.npy", array.dtype, one)
                    kind = one if array.dtype == np.uint8 else (one, str(array.dtype))
                    digests[name] = hashlib.sha256(repr(kind).encode())
                with writing(folder):
                    written = arrays[name].append(array)
                digests[name].update(written)
            labels += [] if block.labels is None else [block.labels]
            groups += [] if block.groups is None else [block.groups]
            captions += block.captions or []
    finally:
        with writing(folder):
            for array in arrays.values():
                array.close()
    if not arrays:
        raise UserError("the data hold no samples; give a source that has some")
    digest, count = digests[SAMPLES], arrays[SAMPLES].count
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
        for name in map(hints_name, entries):
            digest.update(name.encode() + digests[name].digest())
        decoding = json.dumps({"left_out": left_out, "enlarged": enlarged, "several": several})
        (folder / DECODING).write_text(decoding, encoding="utf-8")
        meta = {
            "shape": [count, *arrays[SAMPLES].shape],
            "dtype": str(arrays[SAMPLES].dtype),
            "labels": bool(labels),
            "captions": bool(captions),
            "groups": bool(groups),
            "hints": list(entries) == [HINT] or list(entries),
            "fingerprint": digest.hexdigest(),
            "checksums": {name: checksum(folder / name) for name in BESIDE if (folder / name).is_file()},
        }
        (folder / "meta.json").write_text(json_text(sealed(meta)))
