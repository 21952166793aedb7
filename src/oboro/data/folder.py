"""The files of a folder in their order, and the classes that its sub-folders make."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from oboro.base.errors import UserError


def natural(name: str) -> tuple:
    """Sorting key with numbers compared as numbers: img2 before img10. The name itself breaks ties."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)], name


def list_files(root: Path, suffixes: Sequence[str], remedy: str) -> tuple[list[tuple[str, int | None]], int]:
    """The names below ``root``, with forward slashes, of files with one of ``suffixes`` in natural order, the label of
    each, and the number of classes.

    Where no such file lies in ``root`` itself, sub-folders are classes: label i is the i-th in natural order (2 before
    10), and files may lie in it at any depth. Otherwise labels are None and there are 0 classes. Raises ``UserError``
    where there is no file, with what to ``set``.
    """

    def is_one(path: Path) -> bool:
        return path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()

    children = sorted((p for p in root.iterdir() if not p.name.startswith(".")), key=lambda p: natural(p.name))
    folders = [p for p in children if p.is_dir()]
    labelled = not any(is_one(p) for p in children)
    files = [] if labelled else [(p.name, None) for p in children if is_one(p)]
    for label, folder in enumerate(folders):
        names = (p.relative_to(root).as_posix() for p in _below(folder) if is_one(p))
        files += [(name, label if labelled else None) for name in sorted(names, key=natural)]
    if not files:
        raise UserError(f"{root} holds no {', '.join(suffixes)} files; set {remedy}")
    return files, len(folders) if labelled else 0


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files)


def state(path: Path) -> tuple[int, int] | None:
    """What changes with the content of a file: its size and its time of modification; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
