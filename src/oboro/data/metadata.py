"""What is known of pictures in files beside them: ``metadata.jsonl``, ``.csv`` or ``.parquet``, or a text for each."""

import codecs
import csv
import io
import math
import ntpath
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.json_text import parsed
from oboro.data.cache import HINT
from oboro.data.folder import natural
from oboro.data.left_out import printable
from oboro.data.optional import library

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # the first of them in a folder is read
TEXTS = (".txt", ".caption")  # of a caption beside a picture of the same name
# Fields, the first that a row has: those of Hugging Face's imagefolder, and what else people call them.
# The last of each kind are those of edits: the picture before, the instruction and the picture after.
_FILE = ("file_name", "file_names", "image", "image_file_name", "filename", "file")
_FILE += ("edited_image", "edited_image_file_name", "target_image", "target_img", "output_image")
_TEXT = ("text", "caption", "prompt", "edit_prompt", "instruction", "edit")
_LABEL = ("label",)
_HINT = ("conditioning_image", "conditioning_image_file_name")
_HINT += ("original_image", "original_image_file_name", "input_image", "source_image", "source_img")
ROWS = 1000  # of a parquet file at a time
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Entry:
    """One picture: its path below the root with forward slashes, label and caption where it has them, and by entry of a
    batch the paths of the pictures that belong to it."""

    name: str
    label: int | None = None
    caption: str | None = None
    hints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Metadata:
    """The pictures that files of metadata name, in natural order, and the name of each label. ``notes`` say what is in
    the files and not read."""

    entries: list[Entry]
    classes: tuple[str, ...]
    notes: list[str]


class _Mistake(Exception):
    """What is wrong in one row."""


def read_metadata(root: Path, files: Sequence[str]) -> Metadata:
    """The rows of ``files``, whose names are below ``root``; pictures are named from the folder of their file.

    Raises ``UserError`` with the line for rows that name no file, one outside of ``root`` or one that another row
    names, for labels that are neither classes from 0 nor names, and where some rows have a label or a second picture
    and others not.
    """
    entries: dict[str, tuple[Entry, Any]] = {}
    unread: dict[str, None] = {}
    for file in files:
        for place, row in _rows(root / file):
            try:
                entry = _entry(row, root, posixpath.dirname(file))
                if entry.name in entries:
                    raise _Mistake(f"{entry.name} appears twice")
            except _Mistake as mistake:
                raise UserError(f"{place} of {root / file}: {printable(str(mistake))}; correct that line") from None
            read = {_key(row, keys) for keys in (_FILE, _TEXT, _LABEL, _HINT)}
            unread |= dict.fromkeys(str(key) for key, value in row.items() if value is not None and key not in read)
            entries[entry.name] = entry, _value(row, _LABEL)
    where = root / files[0] if len(files) == 1 else f"the metadata in {root}"
    if not entries:
        raise UserError(f"{where} names no images; add one line for each image, or delete the file")
    pairs = sorted(entries.values(), key=lambda pair: natural(pair[0].name))
    rows = [entry for entry, _ in pairs]
    without = [entry.name for entry in rows if not entry.hints]
    if without and len(without) < len(rows):
        raise UserError(f"{where} has no conditioning_image for {without[0]}; give one to every image or to none")
    labels, classes = _labels([(entry.name, value) for entry, value in pairs], where)
    rows = [replace(entry, label=label) for entry, label in zip(rows, labels, strict=True)]
    notes = [f"{where} has fields that are not read: {printable(', '.join(unread))}"] if unread else []
    used = set(labels)
    empty = [name for i, name in enumerate(classes) if i not in used]
    if empty:
        notes.append(f"no image in {where} has the label {', '.join(empty[:5])}{', …' if len(empty) > 5 else ''}")
    mute = [entry.name for entry in rows if entry.caption is None]
    if len(mute) < len(rows):
        rows = [replace(entry, caption=entry.caption or "") for entry in rows]
        if mute:
            have, of = "has" if len(mute) == 1 else "have", counted(len(rows), "images")
            notes.append(f"{len(mute):,} of {of} {have} no text in {where}: {printable(mute[0])}, …")
    return Metadata(rows, classes, notes)


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 or -32 with its mark. Raises ``UserError`` with the line of other bytes."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); correct or remove it") from error
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"line {line} of {path} is not {encoding.upper()}; save the file as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{path} has the character 0, which is in no text; save the file as UTF-8")
    return text


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Where it is, for messages, and what a row holds by field."""
    return {".jsonl": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}[path.suffix](path)


def _json_rows(path: Path) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # other line breaks may stand in a text
        if not line.strip():
            continue
        try:
            row = parsed(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f"line {number} of {path}: not a JSON object; write one on each line")
        yield f"line {number}", row


def _csv_rows(path: Path) -> Iterator[tuple[str, dict]]:
    text = read_text(path)
    header = text.lstrip("\r\n").split("\n", 1)[0]
    mark = max(",;\t", key=header.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=True, strict=True)
        names = reader.fieldnames or []
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{path} has two columns {twice[0]}; leave one out")
        if names and not set(names) & set(_FILE):
            columns = printable(", ".join(names))
            raise UserError(f"{path} has the columns {columns}; write a first line of names with file_name among them")
        for row in reader:
            if None in row:
                raise UserError(
                    f"line {reader.line_num} of {path} has more fields than the first line; put texts with {mark!r} "
                    "into quotes"
                )
            yield f"line {reader.line_num}", {k: v if v != "" else None for k, v in row.items()}
    except csv.Error as error:
        raise UserError(f"{path} is no CSV file ({error}); write it with a line of names and quoted texts") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict]]:
    library("pyarrow", f"image_folder with {path.name}")
    parquet = library("pyarrow.parquet", f"image_folder with {path.name}")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS):  # a few bytes can stand for any number of rows
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except Exception as error:  # the library has types of its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} cannot be read ({reason}); write it again") from error


def _key(row: dict, keys: Iterable[str]) -> str | None:
    """The first of ``keys`` that ``row`` has a value for."""
    return next((key for key in keys if row.get(key) is not None), None)


def _value(row: dict, keys: Iterable[str]) -> Any:
    key = _key(row, keys)
    return None if key is None else row[key]


def _entry(row: dict, root: Path, folder: str) -> Entry:
    """One row without its label."""
    file, text, hint = (_value(row, keys) for keys in (_FILE, _TEXT, _HINT))
    if isinstance(file, list) and len(file) == 1:
        file = file[0]
    if isinstance(file, list):
        raise _Mistake(f"{len(file)} files in one row, and a sample is one picture")
    if isinstance(file, dict):
        raise _Mistake("the picture itself in place of its file_name, which data=hugging_face reads")
    if file is not None and not isinstance(file, str):
        raise _Mistake(f"{_key(row, _FILE)} is not the name of a file")
    if file is None or not file.strip():
        raise _Mistake(f"no file_name among {', '.join(map(str, row)) or 'no fields'}")
    if hint is not None and not isinstance(hint, str):
        raise _Mistake(f"{_key(row, _HINT)} is not the name of a file")
    if text is not None and not isinstance(text, str):
        raise _Mistake(f"{_key(row, _TEXT)} is not a string")
    for string in (file, text or "", hint or ""):
        if any("\ud800" <= c <= "\udfff" for c in string):
            raise _Mistake("half of a surrogate pair, which is no text")
    return Entry(_inside(file, root, folder), None, text, {} if hint is None else {HINT: _inside(hint, root, folder)})


def _inside(name: str, root: Path, folder: str) -> str:
    """``name``, which counts from ``folder``, from ``root``. Also with the backslashes of Windows and in the other
    spelling of accents, where such a file exists. Raises ``_Mistake`` for one that is not below ``root``."""
    outside = _Mistake(f"{name} is not below the folder")
    if ntpath.splitdrive(name)[0]:
        raise outside
    path = os.path.relpath(name, root.absolute()) if posixpath.isabs(name) else posixpath.join(folder, name)
    below = posixpath.normpath(path)
    if below.startswith("..") and below.split("/")[0] == "..":
        raise outside
    if "\0" in below:
        raise _Mistake("a name with the character 0")
    if os.path.isfile(root / below):
        return below
    slashes = posixpath.normpath(below.replace("\\", "/"))
    if slashes.split("/")[0] == ".." or slashes.startswith("/"):
        raise outside
    spellings = [unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")]
    return next((other for other in (slashes, *spellings) if os.path.isfile(root / other)), below)


def _labels(named: list[tuple[str, Any]], where: Path | str) -> tuple[list[int | None], tuple[str, ...]]:
    """Classes of all pictures and the name of each; numbers stand for themselves, texts are numbered in natural
    order."""
    values = [None if _nothing(value) else value for _, value in named]
    missing = [name for (name, _), value in zip(named, values, strict=True) if value is None]
    if len(missing) == len(named):
        return [None] * len(named), ()
    if missing:
        raise UserError(f"{where} has no label for {printable(missing[0])}; give a label to every image or to none")
    numbers = [_number(value) for value in values]
    if None in numbers:
        for (name, value), number in sorted(zip(named, numbers, strict=True), key=lambda row: row[1] is not None):
            if not isinstance(value, str):
                problem = "neither a class number nor a name" if number is None else "beside texts"
                raise UserError(f"{where} has the label {value!r} for {printable(name)}, {problem}; write one kind")
        texts = [value.strip() for value in values]
        classes = tuple(sorted(set(texts), key=natural))
        index = {text: i for i, text in enumerate(classes)}
        return [index[text] for text in texts], classes
    for (name, value), number in zip(named, numbers, strict=True):
        if not 0 <= number < max(1000, 10 * len(named)):
            raise UserError(
                f"{where} has the label {value!r} for {printable(name)}, which is not a class number; number the "
                "classes from 0, or write names"
            )
    return numbers, tuple(map(str, range(1 + max(numbers))))


def _nothing(value: Any) -> bool:
    """What tables have in the place of a label that is not known."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def _number(value: Any) -> int | None:
    """``3``, ``3.0``, ``"3"`` and ``"3.0"`` are class 3."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,9}(\.0*)?\s*", value):
        return int(float(value))
    return None
