"""One-dimensional series of numbers from files."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Unpack

import numpy as np
from annotated_types import Len
from numpy.lib.stride_tricks import sliding_window_view

from oboro.base.arrays import array_in, arrays_in
from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.base.ranges import Count
from oboro.data.cache import Block, Source
from oboro.data.folder import list_files, state
from oboro.data.series_data import SeriesData, SeriesSettings
from oboro.data.split import Rows, held_out_counts
from oboro.modality.modality import sizes
from oboro.modality.table import SUFFIXES, read_names, read_table

_BLOCK = 4096


class Series(SeriesData):
    """Series of ``path``, which is one of

    - an ``.npz`` file with ``series`` (N, C, L) or (N, L) and perhaps ``labels`` (N,), or an ``.npy`` file with the
      first alone;
    - a folder of CSV or ``.npy`` files, each one series: rows are times, columns are channels. Where all of them lie in
      sub-folders, these are classes, in natural order;
    - one CSV or ``.npy`` file (T, C), a long record, which needs a ``window``.

    ``window`` cuts what is longer into pieces of that length, one every ``stride`` numbers (None: one after the other).
    Held out is then the end of a single record: the last pieces, and those that overlap with them are in neither part.
    Of several files, the pieces of one are held out together. ``columns`` names those of CSV files to read, None takes
    all.

    Numbers are kept as float32. Raises ``UserError`` for text, gaps, NaN, infinity, and files of different lengths.
    """

    def __init__(
        self,
        *,
        path: LocalPath,
        window: Count | None = None,
        stride: Count | None = None,
        columns: Annotated[Sequence[str], Len(1)] | None = None,
        **settings: Unpack[SeriesSettings],
    ):
        super().__init__(**settings)
        self.path, self.columns = Path(path).expanduser(), columns
        self.window, self.stride = window, stride or window
        if stride is not None and window is None:
            raise UserError("data.stride is the step from window to window; set data.window, too")
        if window is not None and (window < 1 or self.stride < 1):
            raise UserError(f"data.window={window} with data.stride={stride} cuts nothing; set both to 1 or more")

    def source(self) -> Source:
        if not self.path.exists():
            raise UserError(f"data.path={self.path} does not exist; set data.path to a file or a folder of series")
        if self.path.is_dir():
            return self._of_folder()
        if self.path.suffix.lower() == ".csv" and self.window is None:
            raise UserError(
                f"data.path={self.path} is one long record; set data.window to the length of a sample, or data.path to "
                "a folder of such files"
            )
        return self._of_array() if self.window is None else self._of_record()

    def _key(self, *content: object) -> str:
        settings = [str(self.path.name), self.window, self.stride, self.columns and list(self.columns)]
        return hashlib.sha256(json.dumps([*content, settings]).encode()).hexdigest()

    def _of_folder(self) -> Source:
        files, classes = list_files(self.path, SUFFIXES, "data.path=<folder of series>")
        self.names = column_names(self.path / files[0][0], self.columns)
        states = [[name, label, state(self.path / name)] for name, label in files]
        return Source(self._key(states), classes, lambda: self._blocks(files))

    def _blocks(self, files: list[tuple[str, int | None]]) -> Iterator[Block]:
        first = None
        for group, (name, label) in enumerate(files):
            series = self._pieces(self._read(self.path / name), self.path / name)
            if first is None:
                first = series.shape[1:], name
            if series.shape[1:] != first[0]:
                raise UserError(
                    f"{self.path / name} holds {sizes(series.shape[1:])} numbers (channels × length) and {first[1]} "
                    f"{sizes(first[0])}; give files of one size, or cut pieces of one length with data.window=..."
                )
            labels = None if label is None else np.full(len(series), label)
            groups = None if self.window is None else np.full(len(series), group)
            yield Block(series, labels, groups=groups)

    def _of_record(self) -> Source:
        self.names = column_names(self.path, self.columns)
        return Source(self._key(state(self.path)), 0, self._windows)

    def _windows(self) -> Iterator[Block]:
        windows = self._pieces(self._read(self.path), self.path)
        for start in range(0, len(windows), _BLOCK):
            yield Block(windows[start : start + _BLOCK])

    def _read(self, path: Path) -> np.ndarray:
        """The numbers (C, T) of a file. Raises ``UserError`` where its columns are not those of the first."""
        values, names = read_table(path, self.columns or self.names or None)
        if self.names and not names:
            raise UserError(f"{path} does not name its columns and the first file does; give all of them names or none")
        return values.T

    def _pieces(self, values: np.ndarray, path: Path) -> np.ndarray:
        """Windows (n, C, window) of ``values`` (C, T), or all of it, (1, C, T)."""
        if self.window is None:
            return values[None]
        if values.shape[1] < self.window:
            raise UserError(
                f"{path} has {values.shape[1]} rows, less than data.window={self.window}; set a smaller one"
            )
        return sliding_window_view(values, self.window, axis=1)[:, :: self.stride].swapaxes(0, 1)

    def _of_array(self) -> Source:
        arrays = open_arrays(self.path)
        labels = arrays.get("labels")
        classes = 0 if labels is None else int(labels.max()) + 1
        return Source(self._key(state(self.path)), classes, lambda: self._rows(arrays["series"], labels))

    def _rows(self, series: np.ndarray, labels: np.ndarray | None) -> Iterator[Block]:
        for start in range(0, len(series), _BLOCK):
            rows = slice(start, start + _BLOCK)
            with np.errstate(over="ignore"):
                block = np.asarray(series[rows], dtype=np.float32)
            block = block[:, None] if block.ndim == 2 else block
            if not np.isfinite(block).all():
                bad = start + int(np.argwhere(~np.isfinite(block))[0, 0])
                raise UserError(f"series {bad} of {self.path} holds NaN or infinity; fill the gap or leave it out")
            yield Block(block, None if labels is None else labels[rows])

    def divide(self, count: int, groups: np.ndarray | None) -> Rows:
        """By time for a single record in windows, training, validation and test; else as any other data."""
        if self.window is None or self.path.is_dir():
            return super().divide(count, groups)
        held_out, tested = held_out_counts(count, self.held_out, self.tested)
        overlap = -(-self.window // self.stride) - 1
        end = count - (tested + overlap if tested else 0)
        left = end - (held_out + overlap if held_out else 0)
        if left < 1:
            given = f"data.validation={self.held_out}" + (f" and data.test={self.tested}" if tested else "")
            raise UserError(
                f"{given} hold{'' if tested else 's'} out {held_out + tested} of {count} windows and the others "
                "overlap with them; hold out fewer, or set a larger data.stride"
            )
        return Rows(np.arange(left), np.arange(end - held_out, end), np.arange(count - tested, count))


UNLABELLED = "the labels of {path} are not a class number for each series; save integers (N,) from 0 on"


def open_arrays(path: Path) -> dict[str, np.ndarray]:
    """``series`` (N, C, L) or (N, L) and perhaps ``labels`` (N,) of an ``.npz`` or ``.npy`` file.

    Raises ``UserError`` for a file that holds something else.
    """
    remedy = "write it with numpy.save or numpy.savez"
    if path.suffix.lower() == ".npz":
        arrays = arrays_in(path, ("series", "labels"), remedy)
    else:
        arrays = {"series": array_in(path, remedy)}
    series = arrays.get("series")
    if series is None or series.dtype.kind not in "fiu" or len(series.shape) not in (2, 3) or 0 in series.shape:
        raise UserError(
            f"{path} holds no series; save numbers (N, C, L) or (N, L) under the name series, or set data.window for "
            "one long record (T, C) of an .npy file"
        )
    labels = arrays.get("labels")
    if labels is not None and (labels.shape != series.shape[:1] or labels.dtype.kind not in "iu"):
        raise UserError(UNLABELLED.format(path=path))
    read = {name: array.read() for name, array in arrays.items()}
    if labels is not None and read["labels"].min() < 0:
        raise UserError(UNLABELLED.format(path=path))
    return read


def column_names(path: Path, columns: Sequence[str] | None) -> tuple[str, ...]:
    """Those that are read of a CSV file, () where it has none."""
    if path.suffix.lower() != ".csv":
        return ()
    names = read_names(path)
    return tuple(columns) if names and columns else names
