"""A folder of picture files: class folders, captions in ``metadata.jsonl``, or neither."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from oboro.base.errors import UserError
from oboro.data.cache import Block, Source
from oboro.data.decode import SUFFIXES
from oboro.data.images import ImageData
from oboro.data.pictures import Picture, decoded

_METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Entry:
    """One picture: its path below the root with forward slashes, label and caption where it has them."""

    name: str
    label: int | None = None
    caption: str | None = None


class ImageFolder(ImageData):
    """PNG, JPEG and WebP files below ``root``, which is one of

    - pictures with ``metadata.jsonl``, whose lines are ``{"file_name": …, "text": …, "label": …}``: exactly the files
      that it names, ``text`` their caption and the integer ``label`` their class, both optional;
    - class folders with pictures at any depth: label i is the i-th folder in natural order (2 before 10);
    - pictures, some perhaps in folders: unlabelled.

    Images come in the natural order of their names. The cache is decoded anew when a name, a size, a modification time
    or the metadata changes. Files that cannot be read are named in a warning and left out; more than half of them, an
    empty or a missing folder raise ``UserError``.
    """

    def __init__(
        self,
        *,
        root: str,
        channels: int = 3,
        resolution: int | Sequence[int] = 64,
        num_classes: int = 0,
        batch_size: int = 128,
        num_workers: int = 0,
        flip: bool = False,
        validation: int | float = 0.05,
        seed: int = 0,
        cache_dir: str | None = None,
    ):
        super().__init__(
            channels=channels,
            resolution=resolution,
            num_classes=num_classes,
            batch_size=batch_size,
            num_workers=num_workers,
            flip=flip,
            validation=validation,
            seed=seed,
            cache_dir=cache_dir,
        )
        self.root = Path(root).expanduser()

    def source(self) -> Source:
        entries, classes = list_entries(self.root)
        digest = hashlib.sha256()
        for entry in entries:
            try:
                stat = (self.root / entry.name).stat()
                state = (stat.st_size, stat.st_mtime_ns)
            except OSError:
                state = None
            digest.update(json.dumps([entry.name, entry.label, entry.caption, state]).encode())
        return Source(digest.hexdigest(), classes, lambda: self._blocks(entries))

    def _blocks(self, entries: list[Entry]) -> Iterator[Block]:
        pictures = (Picture(entry.name, self.root / entry.name, entry.label, entry.caption) for entry in entries)
        return decoded(pictures, self.image_shape, place=str(self.root), total=len(entries))


def natural(name: str) -> tuple:
    """Sorting key with numbers compared as numbers: img2 before img10. The name itself breaks ties."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)], name


def list_entries(root: Path) -> tuple[list[Entry], int]:
    """The pictures below ``root`` in natural order and the number of their classes, 0 without labels."""
    if not root.exists():
        raise UserError(f"data.root={root} does not exist; set data.root=<folder of images>")
    if not root.is_dir():
        raise UserError(f"data.root={root} is a file; set data.root=<folder of images>")
    if (root / _METADATA).is_file():
        return _from_metadata(root / _METADATA)
    children = sorted((p for p in root.iterdir() if not p.name.startswith(".")), key=lambda p: natural(p.name))
    folders = [p for p in children if p.is_dir()]
    labelled = not any(_is_picture(p) for p in children)
    entries = [] if labelled else [Entry(p.name) for p in children if _is_picture(p)]
    for label, folder in enumerate(folders):
        names = (p.relative_to(root).as_posix() for p in _pictures(folder))
        entries += [Entry(name, label if labelled else None) for name in sorted(names, key=natural)]
    if not entries:
        raise UserError(f"data.root={root} holds no {', '.join(SUFFIXES)} files; set data.root=<folder of images>")
    return entries, len(folders) if labelled else 0


def _pictures(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (path for path in (Path(parent, name) for name in files) if _is_picture(path))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _from_metadata(path: Path) -> tuple[list[Entry], int]:
    entries: dict[str, Entry] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        entry = _entry(line)
        if isinstance(entry, str) or entry.name in entries:
            problem = entry if isinstance(entry, str) else f"{entry.name} appears twice"
            raise UserError(f"line {number} of {path}: {problem}; correct that line")
        entries[entry.name] = entry
    rows = sorted(entries.values(), key=lambda entry: natural(entry.name))
    if not rows:
        raise UserError(f"{path} names no images; add one line for each image, or delete the file")
    unlabelled = [entry.name for entry in rows if entry.label is None]
    if unlabelled and len(unlabelled) < len(rows):
        raise UserError(f"{path} has no label for {unlabelled[0]}; give a label to every image or to none")
    if any(entry.caption is not None for entry in rows):
        rows = [Entry(entry.name, entry.label, entry.caption or "") for entry in rows]
    return rows, 0 if unlabelled else 1 + max(entry.label for entry in rows)


def _entry(line: str) -> Entry | str:
    """One line of the metadata, or what is wrong with it."""
    try:
        row = json.loads(line)
    except ValueError:
        return "not JSON"
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
        return "no file_name"
    name, label, text = row["file_name"], row.get("label"), row.get("text")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return f"{name} is not below the folder"
    if label is not None and (type(label) is not int or label < 0):
        return f"label {label!r} is not a class number"
    if text is not None and not isinstance(text, str):
        return "text is not a string"
    return Entry(name, label, text)
