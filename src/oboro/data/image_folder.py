"""A folder of picture files: class folders, captions and labels in files beside them, or neither."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Unpack

from oboro.base.checksums import sealed, unsealed
from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.json_text import parsed
from oboro.base.paths import LocalPath
from oboro.data import cache
from oboro.data.cache import HINT, Block, Source
from oboro.data.decode_or_skip import HintChannels, Picture, channels_of, check_hint_channels, decoded, hint_entries
from oboro.data.folder import Identity, Listing, identity, list_folder, state
from oboro.data.hint_folders import check_folders, with_hints
from oboro.data.image_data import ImageData, ImageSettings
from oboro.data.left_out import PART, SUFFIX, UNNAMED, LeftOut
from oboro.data.metadata import NAMES, TEXTS, Entry, read_metadata, read_text
from oboro.data.shapes import Shapes
from oboro.data.shards import INDEX
from oboro.modality.decode_image import SUFFIXES

# Names of parts as they are on the Hugging Face hub; where sub-folders have no other names, the first kind is read.
_TRAIN = {"train", "training"}
_PARTS = _TRAIN | {"test", "testing", "val", "valid", "validation", "dev", "eval"}


@dataclass(frozen=True)
class Pictures:
    """The pictures in ``folder`` in natural order, and the names of their classes, () without labels."""

    folder: Path
    entries: list[Entry]
    classes: tuple[str, ...]
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class ImageFolder(ImageData):
    """Files of all formats that Pillow reads below ``root``, which is one of

    - pictures with ``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet`` (pip install "oboro[pyarrow]"), in
      ``root`` or in its sub-folders: exactly the files that it names. A row has ``file_name`` (or ``image``), perhaps a
      caption ``text`` (or ``caption``, ``prompt``) and a ``label``: numbers from 0, or names, which are numbered in
      natural order (2 before 10). A ``conditioning_image`` of every row is the file of a second picture that
      belongs to the first: edges, depth, a mask;
    - class folders with pictures at any depth: label i is the i-th folder in natural order that holds any. A few
      pictures beside them, fewer than a class has on average, are left out, unless ``num_classes`` is 0;
    - pictures, some perhaps in folders: unlabelled.

    Without metadata, a ``.txt`` or ``.caption`` file of the name of a picture is its caption. Of the sub-folders
    ``train`` and ``test`` or the like, ``train`` is read, or the only one that there is. Of several frames the first is
    taken. Links are followed.

    ``hints`` is a folder, in ``root`` or elsewhere, that has a second picture for each, under its name and with the
    same proportions: ``edges/0001.png`` for ``images/0001.png``. {edges: bags/edges, depth: bags/depth} are several, by
    the entries of a batch that they become; the one without a name is ``hint``. They have ``hint_channels`` channels,
    all or by entry.

    Images come in the natural order of their names. The cache is decoded anew when a name, a size, a modification time,
    a caption or a label changes. What is left out is counted by reason in the log and listed in ``left_out.txt`` of the
    cache's folder. An empty or a missing folder raises ``UserError``.
    """

    def __init__(
        self,
        *,
        root: LocalPath,
        hints: LocalPath | Mapping[str, LocalPath] | None = None,
        hint_channels: HintChannels = 3,
        **settings: Unpack[ImageSettings],
    ):
        super().__init__(**settings)
        check_hint_channels(hint_channels)
        self.root, self.hint_channels = Path(root).expanduser(), hint_channels
        self.hints = {entry: Path(folder).expanduser() for entry, folder in hint_entries(hints).items()}
        self._shapes: Shapes | None = None

    def source(self) -> Source:
        found = self._pictures()
        return Source(
            self._key(found),
            len(found.classes),
            lambda: self._blocks(found),
            names=found.classes,
            left_out=found.left_out,
            notes=found.notes,
            count=len(found.entries),
        )

    def shapes(self) -> Shapes:
        """Read from the headers of all files once, and kept beside the cache."""
        if self._shapes is None:
            found = self._pictures()
            file = self.cache_dir / "data" / f"shapes-{self._key(found)[:32]}.json"
            try:
                self._shapes = Shapes.from_plain(unsealed(parsed(file.read_text())))
            except (OSError, ValueError, KeyError, TypeError):
                self._shapes = Shapes.of(found.folder / entry.name for entry in found.entries)
                with cache.writing(file.parent):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    cache.write_whole(file, json.dumps(sealed(self._shapes.plain())))
        return self._shapes

    def natural_size(self) -> str:
        return self.shapes().remedy()

    def _pictures(self) -> Pictures:
        check_folders(self.hints, self.root)
        second = [identity(folder) for folder in self.hints.values()]
        found = list_pictures(self.root, labelled=self.given_classes != 0, skipped=second)
        entries, notes = with_hints(found.folder, found.entries, self.hints)
        return replace(found, entries=entries, notes=[*found.notes, *notes])

    def _key(self, found: Pictures) -> str:
        digest = hashlib.sha256()
        for entry in found.entries:
            file = state(found.folder / entry.name)
            digest.update(json.dumps([entry.name, entry.label, entry.caption, file]).encode())
            for name, path in entry.hints.items():
                about = [path, state(found.folder / path), channels_of(name, self.hint_channels)]
                digest.update(json.dumps(about if name == HINT else [name, *about]).encode())
        return digest.hexdigest()

    def pictures(self) -> Sequence[Picture]:
        return files_of(self._pictures())

    def _blocks(self, found: Pictures) -> Iterator[Block]:
        files = {"place": str(self.root), "total": len(found.entries)}
        return decoded(files_of(found), self.modality.shape, hint_channels=self.hint_channels, **files)


def files_of(found: Pictures) -> list[Picture]:
    def picture(entry: Entry) -> Picture:
        hints = {name: found.folder / path for name, path in entry.hints.items()}
        return Picture(entry.name, found.folder / entry.name, entry.label, entry.caption, hints=hints)

    return list(map(picture, found.entries))


def list_pictures(root: Path, labelled: bool = True, skipped: Collection[Identity] = ()) -> Pictures:
    """The pictures below ``root``, but not in the folders ``skipped``; ``labelled`` False takes those beside class
    folders, too, and no labels."""
    if not root.exists():
        raise UserError(f"data.root={root} does not exist; set data.root=<folder of images>")
    if not root.is_dir():
        raise UserError(f"data.root={root} is a file; set data.root=<folder of images>")
    metadata = [name for name in NAMES if (root / name).is_file()][:1]
    listing = list_folder(root, SUFFIXES, labelled and not metadata, skipped)
    if not metadata:
        folders = {name.split("/")[0] if "/" in name else "" for name, _ in listing.files}
        train = sorted(name for name in folders if name.lower() in _TRAIN)
        if train and all(name.lower() in _PARTS for name in folders):
            others = [LeftOut(name, PART) for name in sorted(folders - {train[0]})]
            part = list_pictures(root / train[0], labelled, skipped)
            here = [item for item in listing.left_out if item.name.split("/")[0] not in folders]
            return replace(part, left_out=[*here, *others, *part.left_out])
        if folders and all(name.lower() in _PARTS for name in folders):  # test and val are no classes
            *others, last = sorted(folders)
            if others:
                raise UserError(
                    f"{root} has the parts {', '.join(others)} and {last} and none to train on; set data.root to one "
                    f"of them, {root / last} for example, or rename them if they are classes"
                )
            part = list_pictures(root / last, labelled, skipped)
            note = f"{root} has a part {last} and no other, so that is what is read"
            return replace(part, notes=[note, *part.notes])
        found = [item.name for item in listing.left_out if item.name.rpartition("/")[2] in NAMES]
        folders_of = {name.rpartition("/")[0]: name for name in sorted(found, key=lambda n: -NAMES.index(Path(n).name))}
        metadata = sorted(folders_of.values())
    if metadata:
        return _with_metadata(root, metadata, listing)
    if not listing.files:
        others = {0: "", 1: " (1 file or folder of another kind)"}
        passed = others.get(n := len(listing.left_out), f" ({n} files and folders of other kinds)")
        if (root / INDEX).is_file():
            raise UserError(f"{root} holds shards and no picture files; read them with data=streaming data.root={root}")
        raise UserError(f"{root} holds no pictures{passed}; set data.root=<folder of images>")
    return _with_texts(root, listing, labelled)


def _with_metadata(root: Path, files: list[str], listing: Listing) -> Pictures:
    """What ``files``, in ``root`` or its sub-folders, name."""
    metadata = read_metadata(root, files)
    known = {name for entry in metadata.entries for name in (entry.name, *entry.hints.values())}
    left_out = [item for item in listing.left_out if item.name not in known and item.name not in files]
    left_out += [LeftOut(name, UNNAMED) for name, _ in listing.files if name not in known]
    notes = list(metadata.notes)
    folders = {entry.name.split("/")[0] for entry in metadata.entries if "/" in entry.name}
    if not metadata.classes and len(folders) > 1:
        notes.append(f"{len(folders)} sub-folders of {root} are no classes, as its metadata have no label")
    return Pictures(root, metadata.entries, metadata.classes, left_out, notes)


def _with_texts(root: Path, listing: Listing, labelled: bool) -> Pictures:
    """The files of a listing, with the captions of text files beside them."""
    stems = {os.path.splitext(name)[0] for name, _ in listing.files}
    texts: dict[str, str] = {}
    for suffix in TEXTS:
        for item in listing.left_out:
            stem, end = os.path.splitext(item.name)
            if item.reason == SUFFIX and end.lower() == suffix and stem in stems:
                texts.setdefault(stem, item.name)
    read, notes = set(texts.values()), []
    entries = [Entry(name, label) for name, label in listing.files]
    if texts:
        entries = [
            replace(entry, caption=_caption(root, texts.get(os.path.splitext(entry.name)[0]))) for entry in entries
        ]
        mute = [entry.name for entry in entries if os.path.splitext(entry.name)[0] not in texts]
        if mute:
            have = "has" if len(mute) == 1 else "have"
            of = counted(len(entries), "images")
            notes.append(
                f"{len(mute):,} of {of} {have} no text beside {'it' if have == 'has' else 'them'}: {mute[0]}, …"
            )
    folders = {name.split("/")[0] for name, _ in listing.files if "/" in name}
    if labelled and not listing.classes and len(folders) > 1:
        why = "that number their files are parts" if listing.files[0][1] is not None else "beside many pictures"
        notes.append(f"there are no classes in {root}: {len(folders)} sub-folders {why}")
    return Pictures(root, entries, listing.classes, [i for i in listing.left_out if i.name not in read], notes)


def _caption(root: Path, file: str | None) -> str:
    """What a text file holds, its lines joined by spaces."""
    return "" if file is None else " ".join(re.split(r"\s*[\r\n]+\s*", read_text(root / file).strip()))
