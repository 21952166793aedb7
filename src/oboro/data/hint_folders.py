"""Second pictures that lie in folders of their own, under the names of the pictures that they belong to."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.data.cache import HINT
from oboro.data.folder import identity, list_folder
from oboro.data.left_out import printable
from oboro.data.metadata import Entry
from oboro.modality.decode_image import SUFFIXES


def check_folders(folders: Mapping[str, Path], root: Path) -> None:
    """Raises ``UserError`` for a folder that is none, or the one of the pictures themselves."""
    for entry, folder in folders.items():
        key = "data.hints" if entry == HINT else f"data.hints.{entry}"
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise UserError(f"{key}: {folder} {what}; set it to a folder of pictures")
        if root.is_dir() and identity(folder) == identity(root):
            raise UserError(f"{key}: {folder} is data.root itself; set it to the folder of second pictures")


def with_hints(pictures: Path, entries: list[Entry], folders: Mapping[str, Path]) -> tuple[list[Entry], list[str]]:
    """``entries``, named from the folder ``pictures``, with the picture of the same name in each of ``folders``, and a
    line for each thing worth knowing.

    ``folder/a/1.jpg`` belongs to ``a/1.png``, and where all pictures lie in one sub-folder, ``images/1.png``, so does
    ``folder/1.jpg``. Raises ``UserError`` where a picture has none.
    """
    notes: list[str] = []
    for name, folder in folders.items():
        if any(name in entry.hints for entry in entries):
            raise UserError(
                f"data.hints gives the pictures {name} and so do the metadata of {pictures}; give those of the folder "
                "another name, or leave data.hints out"
            )
        files = _by_stem([file for file, _ in list_folder(folder, SUFFIXES, labelled=False).files])
        inner = _common_folder([entry.name for entry in entries])
        found = [_partner(entry.name, inner, files) for entry in entries]
        missing = [entry.name for entry, file in zip(entries, found, strict=True) if file is None]
        if missing:
            few = printable(", ".join(missing[:3])) + (", …" if len(missing) > 3 else "")
            raise UserError(
                f"{len(missing):,} of {counted(len(entries), 'images')} have no picture of their name in {folder}: "
                f"{few}; add it, or take the image out of data.root"
            )
        others = sum(map(len, files.values())) - len(set(found))
        if others:
            notes.append(f"{counted(others, 'pictures')} in {folder} belong{'s' if others == 1 else ''} to no image")
        relative = os.path.relpath(folder, pictures).replace(os.sep, "/")
        entries = [
            replace(entry, hints={**entry.hints, name: f"{relative}/{file}"})
            for entry, file in zip(entries, found, strict=True)
        ]
    return entries, notes


def _by_stem(files: Sequence[str]) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = {}
    for file in files:
        stems.setdefault(os.path.splitext(file)[0], []).append(file)
    return stems


def _common_folder(names: Sequence[str]) -> str:
    """The folder, with a slash, that all pictures lie in; "" where they lie in several or in none."""
    folders = {name.rpartition("/")[0] for name in names}
    return f"{folder}/" if len(folders) == 1 and (folder := next(iter(folders))) else ""


def _partner(name: str, inner: str, files: Mapping[str, list[str]]) -> str | None:
    """The file of the name of a picture, of the same suffix where there are several."""
    stem, suffix = os.path.splitext(name)
    several = files.get(stem) or files.get(stem.removeprefix(inner)) or []
    return next((file for file in several if file.endswith(suffix)), next(iter(several), None))
