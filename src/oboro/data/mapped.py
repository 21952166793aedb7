"""Arrays of the cache, read from the disk as they are needed."""

from pathlib import Path

import numpy as np

from oboro.base.checksums import CheckedArray
from oboro.base.errors import UserError


class Mapped:
    """``mapped()``: the array in the file ``path``, mapped into memory on first use, and not pickled; ``take``: rows of
    it, held against their checksums (``CheckedArray``).

    Raises ``UserError`` where the file is gone or damaged, and where it has become shorter since: reading what is
    mapped and no longer there would end the process without a word (SIGBUS).
    """

    def __init__(self, path: Path, axes: int = 1):
        self.path, self.axes = path, axes
        self._opened: CheckedArray | None = None
        self._size = 0

    def __call__(self) -> np.ndarray:
        return self._checked().array

    def take(self, *index: np.ndarray) -> np.ndarray:
        """A copy of the rows at these numbers, (n, ...)."""
        opened = self._checked()
        try:
            return opened.take(*index)
        except ValueError as error:
            raise changed(self.path, str(error)) from error

    def _checked(self) -> CheckedArray:
        try:
            if self._opened is None:
                self._opened = CheckedArray(self.path, self.axes)
                self._size = self.path.stat().st_size
            elif self.path.stat().st_size < self._size:
                raise ValueError("it has become shorter")
        except FileNotFoundError as error:
            if self._opened is None:  # else the system keeps what is mapped
                raise changed(self.path, "it is gone") from error
        except (OSError, ValueError, EOFError) as error:
            raise changed(self.path, str(error)) from error
        assert self._opened is not None
        return self._opened

    def __getstate__(self) -> dict:
        return {"path": self.path, "axes": self.axes, "_opened": None, "_size": 0}


def changed(path: Path, reason: str) -> UserError:
    return UserError(
        f"the cache {path} was changed while it was read ({reason}); start again with resume=<the run's "
        "folder>, which makes it anew, and keep others away from data.cache_dir"
    )
