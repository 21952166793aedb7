"""Files that a command is given by name or by folder, of which samples are taken in turn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.remark import remark
from oboro.cli.composed_values import plain


def listed(key: str, value: Any, suffixes: Sequence[str], noun: str = "pictures") -> list[Path]:
    """The files that ``key=value`` names: a file, those of ``suffixes`` in a folder by name, or a list of these.

    Raises ``UserError`` for one that is not there, and for a folder without any.
    """
    names = plain(value)
    files = []
    for name in [] if names is None else names if isinstance(names, list) else [names]:
        place = Path(str(name)).expanduser()
        inside = sorted(file for file in place.glob("*") if file.suffix.lower() in suffixes)
        if place.is_dir() and not inside:
            raise UserError(f"{key}={name} holds no {noun}; set {key} to a file, or to a folder of {noun}.")
        if not place.exists():
            raise UserError(f"there is no {key}={name}; set {key} to a file, or to a folder of {noun}.")
        files += inside or [place]
    return files


def remark_left_out(key: str, files: Sequence[Path], n: int) -> None:
    """Say it where ``n`` samples are too few for all ``files`` of ``key``."""
    if n < len(files):
        remark(f"{counted(n, 'samples')} are of the first {n} of {len(files)} files in {key}; raise n.")
