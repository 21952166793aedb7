"""The Arrow files of a packed folder."""

import zlib
from pathlib import Path
from typing import Any

from oboro.data.shard_files import arrow, sha256
from oboro.data.shards import GROUP, HEIGHT, KNOWN, LABEL, SUM, TEXT, WIDTH, File

KINDS = {LABEL: "int64", TEXT: "large_string", GROUP: "int64", HEIGHT: "int64", WIDTH: "int64"}
ROWS, BYTES = 1024, 2**25  # of a record batch at most: what a writer holds in memory


class ShardWriter:
    """One shard: rows are added, and it is closed."""

    def __init__(self, path: Path):
        self.path, self.bytes, self.count = path, 0, 0
        self.known: dict[str, list[Any]] = {name: [] for name in KINDS}
        self._rows: list[dict[str, Any]] = []
        self._held = 0
        self._sink: Any = None
        self._writer: Any = None

    def add(self, files: dict[str, bytes], known: dict[str, Any]) -> None:
        """A picture and those that belong to it, by entry, and what is known of it, all of ``KINDS``."""
        for name, value in known.items():
            self.known[name].append(value)
        sums = {name + SUM: zlib.crc32(file) for name, file in files.items()}
        self._rows.append({**files, **sums, **{name: value for name, value in known.items() if value is not None}})
        size = sum(map(len, files.values()))
        self.bytes, self.count, self._held = self.bytes + size, self.count + 1, self._held + size
        if len(self._rows) >= ROWS or self._held >= BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            schema = schema_of(self._rows[0])
            self._sink = arrow().OSFile(str(self.path), "wb")
            self._writer = arrow().ipc.new_file(self._sink, schema)
        self._writer.write_batch(arrow().RecordBatch.from_pylist(self._rows, schema=schema_of(self._rows[0])))
        self._rows, self._held = [], 0

    def close(self) -> None:
        """Write what is left; of no rows there is no file."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._sink.close()
            self._writer = None

    def file(self) -> File:
        return file_of(self.path, self.count)


def schema_of(row: dict[str, Any]) -> Any:
    """The columns of rows like ``row``."""
    pyarrow = arrow()
    kinds = {bytes: pyarrow.binary(), str: pyarrow.string(), int: pyarrow.int64()}
    return pyarrow.schema([(name, kinds[type(value)]) for name, value in row.items()])


def write_known(folder: Path, known: dict[str, list[Any]]) -> File:
    """The columns of ``known.arrow``."""
    pyarrow, path = arrow(), folder / KNOWN
    kinds = {name: pyarrow.type_for_alias(kind) for name, kind in KINDS.items()}
    schema = pyarrow.schema([(name, kinds[name]) for name in known])
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pyarrow.record_batch([pyarrow.array(known[n], kinds[n]) for n in known], schema=schema))
    return file_of(path, len(next(iter(known.values()))))


def file_of(path: Path, count: int) -> File:
    return File(path.name, count, path.stat().st_size, sha256(path))
