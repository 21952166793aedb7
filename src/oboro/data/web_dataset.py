"""WebDataset shards: tar files whose members of one name are one sample, ``0001.jpg`` and ``0001.txt``."""

import glob
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Unpack

from oboro.base.errors import UserError
from oboro.base.json_text import parsed
from oboro.base.paths import LocalPath
from oboro.data.cache import Block, Source
from oboro.data.decode_or_skip import HintChannels, Picture, channels_of, check_hint_channels, decoded, hint_entries
from oboro.data.image_data import ImageData, ImageSettings
from oboro.data.optional import library
from oboro.modality.decode_image import SUFFIXES

LARGEST = 2**28  # bytes of a file in a shard


class WebDataset(ImageData):
    """Tar files on this machine, read in the order of the pattern by the library ``webdataset``.

    ``shards`` is a path with ``*`` or with braces: ``shards/{0000..0127}.tar``. A sample has a picture of a format that
    Pillow reads, else it is not one, and

    - its caption in ``.txt``, or in the field ``caption`` of ``.json``; without captions anywhere set ``caption`` null;
    - its class in ``.cls``, or in the field ``label`` of ``.json``. Classes are read where ``num_classes`` > 0: then
      every sample has one. ``"auto"`` counts them, which reads all shards at every start;
    - with ``hints`` = edges a second picture, ``0001.edges.png`` beside ``0001.jpg``, of ``hint_channels`` channels;
      {edges: edges, depth: depth} are several, by the entries of a batch that they become.

    The cache is decoded anew when a name, a size or a modification time of a shard changes. Pictures that cannot be
    read are left out and counted in the log. Raises ``UserError`` where there are no shards, and where one is damaged.
    """

    def __init__(
        self,
        *,
        shards: LocalPath,
        caption: str | None = "caption",
        label: str = "label",
        hints: str | Mapping[str, str] | None = None,
        hint_channels: HintChannels = 3,
        **settings: Unpack[ImageSettings],
    ):
        super().__init__(**settings)
        self.shards, self.caption, self.label = shards, caption, label
        check_hint_channels(hint_channels)
        self.hints, self.hint_channels = hint_entries(hints), hint_channels

    def count_classes(self) -> int:
        found = [self._class(sample, about) for _, _, sample, about in self._samples(self._paths())]
        labels = [int(value) for value in found if value is not None and _is_class(value)]
        if not labels or len(labels) < len(found):
            return 0
        return 1 + max(labels)

    def source(self) -> Source:
        paths = self._paths()
        states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        second = {entry: [name, channels_of(entry, self.hint_channels)] for entry, name in self.hints.items()}
        content = json.dumps([states, self.caption, self.label, self.num_classes, *([second] if second else [])])
        return Source(hashlib.sha256(content.encode()).hexdigest(), self.num_classes, lambda: self._blocks(paths))

    def _paths(self) -> list[Path]:
        library("webdataset", "web_dataset")
        expand = library("braceexpand", "web_dataset").braceexpand  # which webdataset depends on
        matches = [
            match for pattern in expand(str(Path(self.shards).expanduser())) for match in sorted(glob.glob(pattern))
        ]
        if not matches:
            raise UserError(f"data.shards={self.shards} names no file; set data.shards='<folder>/*.tar'")
        return [Path(path) for path in matches]

    def pictures(self) -> Iterator[Picture]:
        return self._pictures(self._paths())

    def _blocks(self, paths: list[Path]) -> Iterator[Block]:
        pictures = self._pictures(paths)
        return decoded(pictures, self.modality.shape, place=self.shards, hint_channels=self.hint_channels)

    def _pictures(self, paths: list[Path]) -> Iterator[Picture]:
        for name, file, sample, about in self._samples(paths):
            hints = {entry: self._hint(name, sample, kind) for entry, kind in self.hints.items()}
            yield Picture(name, file, self._label(name, sample, about), self._caption(sample, about), hints=hints)

    def _samples(self, paths: list[Path]) -> Iterator[tuple[str, bytes, dict[str, bytes], dict]]:
        """Name, picture, all members by suffix, and the content of ``.json`` of every sample that has a picture."""
        tar = library("webdataset", "web_dataset").tariterators
        for path in paths:
            try:
                with path.open("rb") as stream:
                    for sample in tar.group_by_keys(members(stream)):
                        file = next((sample[s[1:]] for s in SUFFIXES if s[1:] in sample), None)
                        if file is not None:
                            about = parsed(sample.get("json", b"{}"))
                            if not isinstance(about, dict):
                                raise ValueError(f"the .json of {sample['__key__']} is not an object")
                            yield f"{path.name}/{sample['__key__']}", file, sample, about
            except UserError:
                raise
            except Exception as error:  # tarfile, zlib and lzma answer damage with a dozen types
                reason = " ".join(str(next(iter(error.args), "")).split()) or type(error).__name__
                raise UserError(f"cannot read {path}: {reason}; write that shard again or leave it out") from error

    def _hint(self, name: str, sample: dict[str, bytes], kind: str) -> bytes:
        file = next((sample[kind + s] for s in SUFFIXES if kind + s in sample), None)
        if file is None:
            members = ", ".join(f".{key}" for key in sample if not key.startswith("__"))
            raise UserError(
                f"{name} has no second picture .{kind}.png or the like, but {members}; set data.hints to what stands "
                "between the name and the suffix, or add the picture"
            )
        return file

    def _caption(self, sample: dict[str, bytes], about: dict) -> str | None:
        if self.caption is None:
            return None
        return sample["txt"].decode().strip() if "txt" in sample else str(about.get(self.caption) or "")

    def _class(self, sample: dict[str, bytes], about: dict) -> Any:
        return sample["cls"].decode() if "cls" in sample else about.get(self.label)

    def _label(self, name: str, sample: dict[str, bytes], about: dict) -> int | None:
        if not self.num_classes:
            return None
        value = self._class(sample, about)
        if not _is_class(value):
            raise UserError(f"{name} has no class; give a .cls to every sample, or set data.num_classes=0")
        label = int(value)
        if not 0 <= label < self.num_classes:
            raise UserError(f"{name} is of class {label}; set data.num_classes={max(label, 0) + 1} or more")
        return label


def members(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Name and content of each file in a tar file, as ``webdataset`` groups them; links and devices are none.

    Raises ``ValueError`` for a file that is larger than ``LARGEST``, which a few bytes can claim, sparse or compressed.
    """
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            if not member.isreg() or re.match(r"__[^/]*__($|/)", member.name):
                continue
            if member.size > LARGEST:
                raise ValueError(f"{member.name} has {member.size:,} bytes, too many for one part of a sample")
            yield {"__url__": "", "fname": member.name, "data": archive.extractfile(member).read()}
            archive.members = []  # which would grow with the file


def _is_class(value: Any) -> bool:
    try:
        int(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
