"""What a command is to write, checked before it works."""

import os
from pathlib import Path

from oboro.base.errors import UserError

LONGEST_NAME = 255  # bytes of the name of a file or folder


def output_file(name: str) -> str:
    """``name``, at which a file can be written. Raises ``UserError`` for a folder, and where nothing can be written."""
    path = checked(name, "file")
    if path.is_dir():
        raise UserError(f"{name} is a folder; give the name of a file in it.")
    check_parent(path, "file")
    return name


def output_folder(name: str) -> str:
    """``name``, a folder that exists or can be made. Raises ``UserError`` for a file, and where nothing can be
    written."""
    path = checked(name, "folder")
    if path.exists() and not path.is_dir():
        raise UserError(f"{name} is a file; give the name of a folder.")
    check_parent(path / "file", "folder")
    return name


def new_folder(name: str) -> str:
    """``output_folder`` without anything in it: what an earlier command left there would pass for a part of what is
    written. Raises ``UserError``."""
    path = Path(output_folder(name)).expanduser()
    if path.is_dir() and (entry := next(path.iterdir(), None)):
        raise UserError(f"{name} has {entry.name} in it already; give a new folder, or remove what is there.")
    return name


def checked(name: str, what: str) -> Path:
    """The path. Raises ``UserError`` where a file system takes no such name."""
    path = Path(name).expanduser()
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise UserError(f"cannot write {name}, a name of more than {LONGEST_NAME} bytes; choose another {what}.")
    return path


def check_parent(path: Path, what: str) -> None:
    """Raises ``UserError`` unless the folder of ``path`` is there, or can be made, and can be written to."""
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise UserError(f"cannot write below {nearest}, which is a file; choose another {what}.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {nearest}: permission denied; choose another {what}.")
