"""Encoded pictures in shards: a folder of Arrow files of some hundred megabytes, and what is known of them.

    00000.arrow, 00001.arrow, …   an Arrow IPC file each, a row for each picture
    known.arrow                   label, text, group and size of every picture, in the order of the shards
    index.json                    the files with their rows, bytes and SHA-256, and sizes, classes, entries

The columns of a shard are ``image``, the bytes of a file of any format that Pillow reads, the second pictures by their
entries in a batch, the CRC-32 of each, ``image_crc32``, and ``label``, ``text`` and ``group`` where there are any. So
whatever reads Arrow files reads them, the Hugging Face library ``datasets`` for one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from oboro.base.checksums import sealed, unsealed
from oboro.base.json_text import parsed
from oboro.data.shapes import Shapes

INDEX, KNOWN = "index.json", "known.arrow"
FORMAT = 1
IMAGE, SUM = "image", "_crc32"
LABEL, TEXT, GROUP = "label", "text", "group"
HEIGHT, WIDTH = "height", "width"


@dataclass(frozen=True)
class File:
    """One file of the folder: its name, rows, bytes and SHA-256 (hex)."""

    name: str
    count: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """What ``index.json`` holds.

    Attributes:
        shards: in the order of the pictures.
        known: the file with what is known of each, None where nothing is.
        shapes: of the pictures as they are stored.
        columns: which of label, text, group, height and width there are.
        classes: names of the classes, as many as the labels name.
        hints: channels of second pictures, by entry.
    """

    shards: tuple[File, ...]
    known: File | None
    shapes: Shapes
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    hints: Mapping[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(shard.count for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the files hold."""
        files = [*self.shards, *([self.known] if self.known else [])]
        return hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()

    def text(self) -> str:
        """The content of ``index.json``."""
        plain: dict[str, Any] = {
            "format": FORMAT,
            "shards": [vars(shard) for shard in self.shards],
            "known": None if self.known is None else vars(self.known),
            "shapes": self.shapes.plain(),
            "columns": list(self.columns),
            "classes": list(self.classes),
            "hints": dict(self.hints),
        }
        return json.dumps(sealed(plain), ensure_ascii=False, indent=1)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Raises ``ValueError``, ``KeyError`` or ``TypeError`` for what is no such file, or damaged."""
        plain = unsealed(parsed(text))
        if plain["format"] != FORMAT:
            raise ValueError(f"it has the format {plain['format']}, and this version reads {FORMAT}")
        return cls(
            tuple(File(**shard) for shard in plain["shards"]),
            File(**plain["known"]) if plain["known"] else None,
            Shapes.from_plain(plain["shapes"]),
            tuple(plain["columns"]),
            tuple(plain["classes"]),
            plain["hints"],
        )
