"""Arrays that are expensive to compute, kept on disk under the hash of everything they depend on."""

import hashlib
import json
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np


def cached_arrays(
    cache_dir: Path,
    identity: Mapping[str, str | int],
    names: Sequence[str],
    compute: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """The arrays called ``names`` that belong to ``identity``: read from ``cache_dir``, else computed and written.

    The file is ``<sha256 of identity>.npz``, holds the identity too, and is put in place by one rename, so a reader
    sees a whole file or none. A damaged file, or one of another identity, is computed anew and replaced. Pickled
    arrays are never read. A directory that cannot be written costs a warning, not the result.
    """
    text = json.dumps(dict(identity), sort_keys=True)
    path = Path(cache_dir) / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"
    try:
        return _read(path, text, names)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except Exception as error:  # zipfile and numpy answer a damaged file with a dozen types
        warnings.warn(f"{path} is not usable ({error}): computing it anew", stacklevel=2)
    arrays = compute()
    try:
        _write(path, text, arrays)
    except OSError as error:
        warnings.warn(f"{path} cannot be written ({error}): it will be computed again next time", stacklevel=2)
    return arrays


def _read(path: Path, identity: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()  # numpy alone misses damage that makes an array look shorter
    if bad is not None:
        raise ValueError(f"the checksum of {bad} is wrong")
    with np.load(path, allow_pickle=False) as file:
        if str(file["identity"]) != identity:
            raise ValueError("it belongs to other data or another extractor")
        return {name: file[name] for name in names}


def _write(path: Path, identity: str, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, identity=np.array(identity), **arrays)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
