"""Arrays that are expensive to compute, kept on disk under the hash of everything they depend on."""

import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from oboro.base.temporary import beside, clear_abandoned, held

Arrays = dict[str, np.ndarray]


def cached_arrays(cache_dir: Path, identity: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
    """The arrays that belong to ``identity``: read from ``cache_dir``, else computed and written there.

    The file is ``<sha256 of identity>.npz``, holds the identity too, and is put in place by one rename, so a reader
    sees a whole file or none. A damaged file, or one of another identity, is computed anew and replaced. Pickled
    arrays are never read. A directory that cannot be written costs a warning, not the result.
    """
    arrays = read_arrays(cache_dir, identity)
    if arrays is None:
        arrays = compute()
        write_arrays(cache_dir, identity, arrays)
    return arrays


def read_arrays(cache_dir: Path, identity: Mapping[str, Any]) -> Arrays | None:
    """What was written for ``identity``; None if it is not there, with a warning if it is damaged or foreign."""
    path, text = _place(cache_dir, identity)
    try:
        return _read(path, text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # zipfile and numpy answer a damaged file with a dozen types
        warnings.warn(f"{path} is not usable ({error}): computing it anew", stacklevel=2)
        return None


def write_arrays(cache_dir: Path, identity: Mapping[str, Any], arrays: Arrays) -> None:
    """Put ``arrays`` in their place by one rename; a warning where that is not possible."""
    path, text = _place(cache_dir, identity)
    try:
        _write(path, text, arrays)
    except OSError as error:
        warnings.warn(f"{path} cannot be written ({error}): it will be computed again next time", stacklevel=2)


def _place(cache_dir: Path, identity: Mapping[str, Any]) -> tuple[Path, str]:
    text = json.dumps(dict(identity), sort_keys=True)
    return Path(cache_dir) / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz", text


def _read(path: Path, identity: str) -> Arrays:
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()  # numpy alone misses damage that makes an array look shorter
    if bad is not None:
        raise ValueError(f"the checksum of {bad} is wrong")
    with np.load(path, allow_pickle=False) as file:
        if str(file["identity"]) != identity:
            raise ValueError("it belongs to other data or another extractor")
        return {name: file[name] for name in file.files if name != "identity"}


def _write(path: Path, identity: str, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned(path.parent)
    partial = beside(path)
    with held(partial):
        with partial.open("wb") as file:
            np.savez(file, identity=np.array(identity), **arrays)
        os.replace(partial, path)
