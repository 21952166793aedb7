"""Checkpoints as files: zip archives with a checksum for each record, which torch writes and does not look at."""

import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from oboro.base.errors import UserError
from oboro.base.whole_file import replacing

FOLDER = 0x10  # of the attributes of a record
PIECE = 2**22  # bytes that are read at once
OTHERS = "use another .ckpt file of the run, or copy it anew"


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raises ``OSError`` where it cannot be written; then ``path`` is as it was. Takes no memory for a second copy."""
    import torch  # as in oboro.restore.checkpoint

    with replacing(path) as file:
        torch.save(dict(checkpoint), file)


def read_unchecked(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, its weights not read yet. Raises whatever a file that is none makes the unpickler raise:
    for what a run has written itself."""
    import torch  # as in oboro.restore.checkpoint

    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


@lru_cache(maxsize=256)
def check_archive(path: Path, modified: int, size: int, name: Path) -> None:
    """Raises ``UserError`` unless every record of the archive ``path`` has its CRC-32.

    Half a second for a gigabyte that is in memory. ``modified`` and ``size`` tell a file that was checked
    from another one at the same place.
    """
    if size == 0:
        raise UserError(f"{name} is empty, what wrote it was cut off; {OTHERS}.")
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            # torch takes a record with the mark of a folder for one, and its tensor is what lay in memory.
            strange = any(record.external_attr & FOLDER for record in records)
            if strange or not any(record.filename.endswith("/data.pkl") for record in records):
                raise UserError(f"{name} is damaged or no checkpoint at all; {OTHERS}.")
            if len({record.filename for record in records}) < len(records):
                raise UserError(f"{name} has two records of one name; do not use this file.")
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise UserError(f"{name} is compressed and was not written by oboro; do not use this file.")
            for record in records:
                with archive.open(record) as content:
                    while content.read(PIECE):
                        pass
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{name} is damaged or no checkpoint at all; {OTHERS}.") from error
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}; {OTHERS}.") from error
