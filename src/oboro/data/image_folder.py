"""A folder of picture files: class folders, captions in ``metadata.jsonl``, or neither."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, Unpack

from oboro.base.errors import UserError
from oboro.data.cache import Block, Source
from oboro.data.decode_or_skip import Picture, decoded
from oboro.data.folder import list_files, natural, state
from oboro.data.image_data import ImageData, ImageSettings
from oboro.modality.decode_image import SUFFIXES
from oboro.modality.image import KINDS

_METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Entry:
    """One picture: its path below the root with forward slashes, label and caption where it has them, and the path of
    the picture that belongs to it."""

    name: str
    label: int | None = None
    caption: str | None = None
    hint: str | None = None


class ImageFolder(ImageData):
    """PNG, JPEG and WebP files below ``root``, which is one of

    - pictures with ``metadata.jsonl``, whose lines are ``{"file_name": …, "text": …, "label": …}``: exactly the files
      that it names, ``text`` their caption and the integer ``label`` their class, both optional. A
      ``conditioning_image`` of every line is the file of a second picture, of ``hint_channels`` channels, that belongs
      to the first: edges, depth, a mask;
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
        hint_channels: Literal[1, 3, 4] = 3,
        **settings: Unpack[ImageSettings],
    ):
        super().__init__(**settings)
        if hint_channels not in KINDS:
            raise UserError(
                f"data.hint_channels={hint_channels} is not a kind of image; set 1 (grey), 3 (RGB) or 4 (RGBA)"
            )
        self.root, self.hint_channels = Path(root).expanduser(), hint_channels

    def source(self) -> Source:
        entries, classes = list_entries(self.root)
        digest = hashlib.sha256()
        for entry in entries:
            digest.update(json.dumps([entry.name, entry.label, entry.caption, state(self.root / entry.name)]).encode())
            if entry.hint is not None:
                digest.update(json.dumps([entry.hint, state(self.root / entry.hint), self.hint_channels]).encode())
        return Source(digest.hexdigest(), classes, lambda: self._blocks(entries))

    def _blocks(self, entries: list[Entry]) -> Iterator[Block]:
        shape, files = self.modality.shape, {"place": str(self.root), "total": len(entries)}
        return decoded(map(self._picture, entries), shape, hint_channels=self.hint_channels, **files)

    def _picture(self, entry: Entry) -> Picture:
        hint = None if entry.hint is None else self.root / entry.hint
        return Picture(entry.name, self.root / entry.name, entry.label, entry.caption, hint=hint)


def list_entries(root: Path) -> tuple[list[Entry], int]:
    """The pictures below ``root`` in natural order and the number of their classes, 0 without labels."""
    if not root.exists():
        raise UserError(f"data.root={root} does not exist; set data.root=<folder of images>")
    if not root.is_dir():
        raise UserError(f"data.root={root} is a file; set data.root=<folder of images>")
    if (root / _METADATA).is_file():
        return _from_metadata(root / _METADATA)
    files, classes = list_files(root, SUFFIXES, "data.root=<folder of images>")
    return [Entry(name, label) for name, label in files], classes


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
    without = [entry.name for entry in rows if entry.hint is None]
    if without and len(without) < len(rows):
        raise UserError(f"{path} has no conditioning_image for {without[0]}; give one to every image or to none")
    unlabelled = [entry.name for entry in rows if entry.label is None]
    if unlabelled and len(unlabelled) < len(rows):
        raise UserError(f"{path} has no label for {unlabelled[0]}; give a label to every image or to none")
    if any(entry.caption is not None for entry in rows):
        rows = [replace(entry, caption=entry.caption or "") for entry in rows]
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
    hint = row.get("conditioning_image")
    if hint is not None and not isinstance(hint, str):
        return "conditioning_image is not the name of a file"
    for file in (name, hint or name):
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            return f"{file} is not below the folder"
    if label is not None and (type(label) is not int or label < 0):
        return f"label {label!r} is not a class number"
    if text is not None and not isinstance(text, str):
        return "text is not a string"
    return Entry(name, label, text, hint)
