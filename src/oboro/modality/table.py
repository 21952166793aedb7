"""Tables of numbers in files: CSV and ``.npy``, rows are times and columns are channels."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from oboro.base.arrays import array_in
from oboro.base.errors import UserError
from oboro.base.spreadsheet import as_text, original

SUFFIXES = (".csv", ".npy")


def write_table(path: Path, values: np.ndarray, names: Sequence[str] = ()) -> None:
    """``values`` (T, C), float32, as CSV, so that reading gives the same bits; ``names`` (C,) are the first line, which
    no spreadsheet takes for formulas."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if names:
            writer.writerow(map(as_text, names))
        writer.writerows([f"{value:.9g}" for value in row] for row in values.tolist())


def read_table(path: Path, columns: Sequence[str] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """The numbers (T, C), float32, of a CSV or ``.npy`` file (T,) or (T, C), and the names of the columns.

    The first line of a CSV file are names if any of its fields is no number; otherwise there are none. ``columns``
    names the ones to take, in that order. Raises ``UserError`` for files that cannot be read, text, gaps, NaN and
    infinity.
    """
    values, names = _from_npy(path) if path.suffix.lower() == ".npy" else _from_csv(path, columns)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(f"{path} holds {values.shape} numbers, no table (times, channels); give one of these.")
    check_finite(values, names, path)
    return values.astype(np.float32), names


def check_finite(values: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Raises ``UserError`` for ``values`` (T, C) with NaN or infinity, or too large for float32."""
    with np.errstate(over="ignore"):
        bad = np.argwhere(~np.isfinite(values.astype(np.float32)))
    if len(bad):
        row, column = bad[0]
        what = names[column] if names else f"column {column}"
        raise UserError(
            f"{path} holds NaN, infinity or a gap at row {row} of {what}; fill it, or leave that part of the data out."
        )


def read_names(path: Path) -> tuple[str, ...]:
    """The first line of a CSV file, if any of its fields is no number, else (). Raises ``UserError`` without a file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}); give a CSV file in UTF-8.") from error
    return () if all(map(_is_number, first)) else tuple(original(name.strip()) for name in first)


def _from_npy(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    array = array_in(path, "write it with numpy.save")
    if array.dtype.kind not in "fiub":
        raise UserError(f"{path} holds {array.dtype}, no numbers; save an array of floats.")
    if len(array.shape) not in (1, 2) or 0 in array.shape:
        raise UserError(f"{path} holds {array.shape} numbers, no table (times, channels); give one of these.")
    return np.asarray(array.read()), ()


def _from_csv(path: Path, columns: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    try:
        names = read_names(path)
        chosen = None if columns is None or not names else [_place(name, names, path) for name in columns]
        values = np.loadtxt(
            path,
            delimiter=",",
            skiprows=int(bool(names)),
            usecols=chosen,
            ndmin=2,
            encoding="utf-8-sig",
            comments=None,
            quotechar='"',
            converters=_number,
        )
    except (OSError, ValueError, UnicodeDecodeError, csv.Error) as error:
        what = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"{path} is no table of numbers ({what}); name the columns to read with data.columns=[...], and give every "
            "row as many fields."
        ) from error
    return values, names if chosen is None else tuple(columns)


def _is_number(field: str) -> bool:
    try:
        float(field or "nan")
    except ValueError:
        return False
    return True


def _number(field: str) -> float:
    """An empty field is a gap."""
    return float(field or "nan")


def _place(name: str, names: Sequence[str], path: Path) -> int:
    if name not in names:
        raise UserError(f"{path} has no column {name}; set data.columns to some of {', '.join(names)}.")
    return names.index(name)
