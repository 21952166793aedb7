"""Fetch a file of known content."""

import hashlib
import os
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from rich.progress import Progress

from oboro.base.errors import UserError
from oboro.base.temporary import beside, clear_abandoned, held
from oboro.data.cache import writing

_TIMEOUT = 30  # seconds without a byte
_PIECE = 2**18


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of the file at ``path``."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def not_in(root: Path | None, names: Sequence[str]) -> list[str]:
    """A note where somebody named a folder ``root`` and none of the files ``names``, of a published set, is there."""
    if root is None or any((root / name).exists() for name in names):
        return []
    return [
        f"data.root={root} holds no {' or '.join(names)}, so the published files are used; for pictures of your own "
        "choose data=image_folder"
    ]


def download(urls: Sequence[str], target: Path, *, size: int, sha256: str, remedy: str) -> None:
    """Put the file of ``size`` bytes and digest ``sha256`` at ``target``, from the first of ``urls`` that has it.

    Nothing reaches ``target`` unverified, at most ``size`` bytes are read, and a target that is already right is kept.
    Raises ``UserError`` that ends with ``remedy`` where no address works.
    """
    if target.is_file() and sha256_of(target) == sha256:
        return
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_abandoned(target.parent)
    temporary = beside(target)
    failures = []
    with held(temporary):
        for url in urls:
            failure = _fetch(url, temporary, size, sha256)
            if failure is None:
                with writing(target.parent):
                    os.replace(temporary, target)
                return
            failures.append(f"{url}: {failure}")
    raise UserError(f"cannot download {target.name} ({'; '.join(failures)}); {remedy}")


def _fetch(url: str, path: Path, size: int, sha256: str) -> str | None:
    """Write what ``url`` gives to ``path``; None, or why it is not the wanted content."""
    with writing(path.parent):
        file = path.open("wb")
    digest, received = hashlib.sha256(), 0
    try:
        with file, urllib.request.urlopen(url, timeout=_TIMEOUT) as response, Progress(transient=True) as progress:
            task = progress.add_task(url.rsplit("/", 1)[-1], total=size)
            while piece := response.read(min(_PIECE, size - received + 1)):
                received += len(piece)
                if received > size:
                    return f"larger than the {size} bytes expected"
                digest.update(piece)
                with writing(path.parent):
                    file.write(piece)
                progress.update(task, completed=received)
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__
    return None if digest.hexdigest() == sha256 else f"wrong checksum after {received} bytes"
