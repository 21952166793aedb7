"""Data sets of the Hugging Face library ``datasets``: saved folders, Parquet files, names on the hub."""

import glob
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from oboro.base.errors import UserError
from oboro.base.paths import PathOrName
from oboro.data.cache import HINT, Block, Source
from oboro.data.decode_or_skip import HintChannels, Picture, channels_of, check_hint_channels, decoded, hint_entries
from oboro.data.image_data import ImageData, ImageSettings
from oboro.data.optional import library


class HuggingFace(ImageData):
    """Pictures, captions and labels from the columns of a data set.

    ``path`` is a folder that ``save_to_disk`` wrote, Parquet files (a folder, a file, or a pattern like
    ``shards/*.parquet``), or a name on the hub, whose ``name`` chooses a configuration; ``split`` chooses the part.
    Data sets that come as a Python script are not run.

    - ``image``: the column of pictures.
    - ``text``: the column of captions, or null for none. Of a list of captions the first is taken; one that is missing
      is empty.
    - ``label``: the column of classes, integers or a ``ClassLabel``, or null for none.
    - ``hints``: the column of second pictures, ``conditioning_image`` by custom, or null for none; {edges: edge_map}
      are several, by the entries of a batch that they become. ``hint_channels`` are theirs.

    The cache is decoded anew when the fingerprint that the library gives to the data set changes. Pictures that cannot
    be read are left out and counted in the log. Raises ``UserError`` where the data set, the split or a column is
    missing.
    """

    def __init__(
        self,
        *,
        path: PathOrName,
        name: str | None = None,
        split: str = "train",
        image: str = "image",
        text: str | None = "text",
        label: str | None = None,
        hints: str | Mapping[str, str] | None = None,
        hint_channels: HintChannels = 3,
        **settings: Unpack[ImageSettings],
    ):
        super().__init__(**settings)
        self.path, self.name, self.split = path, name, split
        self.image, self.text, self.label = image, text, label
        check_hint_channels(hint_channels)
        self.hints, self.hint_channels = hint_entries(hints), hint_channels

    def count_classes(self) -> int:
        return 0 if self.label is None else super().count_classes()

    def source(self) -> Source:
        rows = self._columns(_load(self.path, self.name, self.split))
        names = () if self.label is None else _classes(rows, self.label)
        second = {entry: [column, channels_of(entry, self.hint_channels)] for entry, column in self.hints.items()}
        key = json.dumps([rows._fingerprint, self.image, self.text, self.label, *([second] if second else [])])
        return Source(key, len(names), lambda: self._blocks(rows), names=names, count=len(rows))

    def _columns(self, rows: Any) -> Any:
        """The wanted columns, in a fixed order."""
        second = {"hints" if entry == HINT else f"hints.{entry}": column for entry, column in self.hints.items()}
        wanted = {"image": self.image, "text": self.text, "label": self.label, **second}
        for option, column in wanted.items():
            if column is not None and column not in rows.column_names:
                raise UserError(
                    f"{self.path} has no column {column}; set data.{option} to one of {', '.join(rows.column_names)}"
                )
        return rows.select_columns([*dict.fromkeys(column for column in wanted.values() if column is not None)])

    def pictures(self) -> Sequence[Picture]:
        return _Pictures(self._encoded(self._columns(_load(self.path, self.name, self.split))), self._picture)

    def _blocks(self, rows: Any) -> Iterator[Block]:
        encoded = self._encoded(rows)
        pictures = (self._picture(i, row) for i, row in enumerate(encoded))
        shown = {"place": self.path, "total": len(encoded)}
        return decoded(pictures, self.modality.shape, hint_channels=self.hint_channels, **shown)

    def _encoded(self, rows: Any) -> Any:
        """``rows`` with pictures as they are stored."""
        datasets = library("datasets", "hugging_face")
        encoded = rows
        for option, column in [("image", self.image), *(("hints", column) for column in self.hints.values())]:
            try:
                encoded = encoded.cast_column(column, datasets.Image(decode=False))
            except (TypeError, ValueError, NotImplementedError) as error:
                raise UserError(
                    f"column {column} of {self.path} holds no pictures; set data.{option} to another column"
                ) from error
        return encoded

    def _picture(self, number: int, row: dict) -> Picture:
        label = None if self.label is None else row[self.label]
        caption = None if self.text is None else self._caption(row[self.text])
        hints = {entry: _file(row[column]) for entry, column in self.hints.items()}
        return Picture(f"row {number}", _file(row[self.image]), label, caption, hints=hints)

    def _caption(self, value: Any) -> str:
        if isinstance(value, list):
            value = next(iter(value), None)
        if value is not None and not isinstance(value, str):
            raise UserError(f"column {self.text} of {self.path} holds no text; set data.text to another column or null")
        return value or ""


class _Pictures(Sequence[Picture]):
    """The pictures of ``rows``, each made when it is asked for."""

    def __init__(self, rows: Any, picture: Callable[[int, dict], Picture]):
        self._rows, self._picture = rows, picture

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._picture(index, self._rows[index])


def _file(held: dict[str, Any] | None) -> Path | bytes:
    if held is None:
        return b""  # a missing picture cannot be read
    return Path(held["path"]) if held["bytes"] is None else held["bytes"]


def _load(path: str, name: str | None, split: str) -> Any:
    """The ``datasets.Dataset`` at ``path``."""
    datasets = library("datasets", "hugging_face")
    place = Path(path).expanduser()
    parquet = sorted(glob.glob(str(place / "*.parquet") if place.is_dir() else str(place)))
    try:
        if (place / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(place))[split]
        if (place / "state.json").is_file():
            return datasets.load_from_disk(str(place))
        if parquet and all(file.endswith(".parquet") for file in parquet):
            return datasets.load_dataset("parquet", data_files={split: parquet}, split=split)
        return datasets.load_dataset(path, name, split=split)
    except KeyError as error:
        raise UserError(f"{path} has no split {split}; set data.split to another one") from error
    except Exception as error:  # the library and those that it reads with have a dozen types
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"cannot load {path}: {reason}; correct data.path, data.name or data.split") from error


def _classes(rows: Any, column: str) -> tuple[str, ...]:
    """The names of the classes that the labels of ``column`` are numbers of."""
    labels = rows.unique(column)
    if not all(type(label) is int and label >= 0 for label in labels):
        raise UserError(f"column {column} holds other things than class numbers; set data.label to another one or null")
    names = getattr(rows.features[column], "names", None)  # of a ClassLabel
    return tuple(names or map(str, range(1 + max(labels))))
