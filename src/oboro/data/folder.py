"""The files of a folder in their order, and the classes that its sub-folders make."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from pathlib import Path

from oboro.base.errors import UserError
from oboro.data.left_out import BESIDE, CLOSED, EMPTY, HIDDEN, LINK, LOOP, SPECIAL, SUFFIX, LeftOut

# Beside what begins with a dot: what systems, archives and file servers leave in folders.
_SYSTEM = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "@eadir",
    "@__thumb",
    "#recycle",
    "@recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__pycache__",
}

Identity = tuple[int, int]


@dataclass(frozen=True)
class Listing:
    """``files``: names below the folder, with forward slashes, and the number of the sub-folder of each, None where
    some lie in none; ``classes``: these sub-folders, () where they are no classes."""

    files: list[tuple[str, int | None]]
    classes: tuple[str, ...] = ()
    left_out: list[LeftOut] = field(default_factory=list)


def natural(name: str) -> tuple:
    """Sorting key with numbers compared as numbers: img2 before img10. The name itself breaks ties."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)], name


def list_files(root: Path, suffixes: Sequence[str], remedy: str) -> tuple[list[tuple[str, int | None]], int]:
    """Files and the number of classes of ``list_folder``. Raises ``UserError`` where there is no file, with what to
    ``set``."""
    listing = list_folder(root, suffixes)
    if not listing.files:
        raise UserError(f"{root} holds no {', '.join(suffixes[:4])} files; set {remedy}")
    return listing.files, len(listing.classes)


def list_folder(
    root: Path, suffixes: Sequence[str], labelled: bool = True, skipped: Collection[Identity] = ()
) -> Listing:
    """The files below ``root`` with one of ``suffixes``, in natural order (2 before 10).

    Sub-folders that hold such files, at any depth, are classes: label i is the i-th in natural order. A few files that
    lie in ``root`` itself, not more than a class has on average, are then left out; where there are more, or a single
    sub-folder beside files, or where ``labelled`` is False, the files in ``root`` come first and there are no classes.
    Nor are there in ``numbered`` folders.

    Links are followed. A folder that links reach again below one sub-folder is read once, and those of ``skipped`` are
    not.
    """
    left_out: list[LeftOut] = []
    loose, folders = _entries(root, root, suffixes, left_out, skipped)
    groups: dict[str, list[str]] = {}
    for folder in sorted(folders, key=lambda name: natural(name)):
        names = _below(root, folder, suffixes, left_out, skipped)
        if names:
            groups[folder] = sorted(names, key=natural)
        else:
            left_out.append(LeftOut(folder, EMPTY))
    loose.sort(key=natural)
    inside = sum(map(len, groups.values()))
    few = labelled and len(groups) > 1 and len(loose) * len(groups) <= inside
    if loose and few:
        left_out += [LeftOut(name, BESIDE) for name in loose]
        loose = []
    if loose:
        return Listing([(name, None) for name in [*loose, *(n for g in groups.values() for n in g)]], (), left_out)
    files: list[tuple[str, int | None]] = [(n, i) for i, names in enumerate(groups.values()) for n in names]
    return Listing(files, () if numbered(groups) else tuple(groups), left_out)


def numbered(groups: Mapping[str, Sequence[str]]) -> bool:
    """Whether folders are parts of one numbering and no classes: the name of each is the number that its files count on
    from, up to the next one's, in chunks of more than one. 000000/000000.png to 000000/000999.png, 001000/001000.png
    and so on; class folders 0 … 9 are not."""
    stems = {folder: [Path(name).stem for name in names] for folder, names in groups.items()}
    if not stems or not all(word.isdecimal() for folder, files in stems.items() for word in (folder, *files)):
        return False
    parts = sorted((int(folder), list(map(int, files))) for folder, files in stems.items())
    starts = [start for start, _ in parts]
    if any(b - a < 2 for a, b in pairwise(starts)):
        return False
    ends = [*starts[1:], inf]
    return all(start <= n < end for (start, files), end in zip(parts, ends, strict=True) for n in files)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to a system or a program and not to the data."""
    return name.startswith(".") or name.lower() in _SYSTEM


def _below(
    root: Path, folder: str, suffixes: Sequence[str], left_out: list[LeftOut], skipped: Collection[Identity]
) -> list[str]:
    """The files of ``folder`` at any depth."""
    names, rest, seen = [], [folder], {identity(root)}
    while rest:
        name = rest.pop()
        if (own := identity(root / name)) in seen:
            left_out.append(LeftOut(name, LOOP))
            continue
        seen.add(own)
        files, folders = _entries(root, root / name, suffixes, left_out, skipped)
        names += files
        rest += sorted(folders, key=natural, reverse=True)
    return names


def identity(folder: Path) -> Identity:
    """What a folder is by whatever path it is reached."""
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _entries(
    root: Path, folder: Path, suffixes: Sequence[str], left_out: list[LeftOut], skipped: Collection[Identity]
) -> tuple[list[str], list[str]]:
    """Files with one of ``suffixes`` and folders of ``folder``, named from ``root``."""
    files, folders = [], []
    prefix = "" if folder == root else folder.relative_to(root).as_posix() + "/"
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        left_out.append(LeftOut(prefix.rstrip("/") or ".", CLOSED, error.strerror or ""))
        return [], []
    for entry in entries:
        name, suffix = prefix + entry.name, os.path.splitext(entry.name)[1].lower()
        broken = entry.is_symlink() and not os.path.exists(entry.path)  # or a link to itself
        if is_hidden(entry.name):
            left_out.append(LeftOut(name, HIDDEN))
        elif broken:
            left_out.append(LeftOut(name, LINK))
        elif entry.is_dir():
            if not skipped or identity(Path(entry.path)) not in skipped:
                folders.append(name)
        elif not entry.is_file():
            left_out.append(LeftOut(name, SPECIAL))
        elif suffix in suffixes:
            files.append(name)
        else:
            left_out.append(LeftOut(name, SUFFIX, suffix or "none"))
    return files, folders


def state(path: Path) -> tuple[int, int] | None:
    """What changes with the content of a file: its size and its time of modification; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
