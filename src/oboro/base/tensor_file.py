"""Safetensors files: whole or absent, and with a checksum for each tensor, which the format has none of."""

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from oboro.base.whole_file import replaced

CHECKSUMS = "checksums"  # the key of the header; files without it are read unchecked


class Damaged(ValueError):
    """A file whose content is not what was written."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Raises ``OSError`` where it cannot be written; then ``path`` is as it was."""
    with replaced(path) as partial, _errors_of_the_system():
        save_file(_apart(tensors), partial, dict(header))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> int:
    """As ``save_tensors``, with checksums of ``header`` and ``tensors`` for ``TensorFile``; the checksum of these."""
    sums = {name: checksum(tensor) for name, tensor in tensors.items()}
    seal = _seal(header, sums)
    sealed = json.dumps({"tensors": sums, "header": seal}, sort_keys=True)
    save_tensors(path, tensors, {**header, CHECKSUMS: sealed})
    return seal


class TensorFile:
    """The file ``path`` while it is open. Raises ``Damaged`` where it is none of safetensors, or is not what
    ``write_tensors`` wrote; the content of a tensor is looked at when it is read. ``seal`` is what that gave, None of a
    file without checksums."""

    seal: int | None = None

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = safe_open(path, "pt")
            self.header: dict[str, str] = dict(self._file.metadata() or {})
            self.shapes = {name: self._file.get_slice(name).get_shape() for name in self._file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise Damaged(str(error)) from error
        self._sums = self._checked(self.header.pop(CHECKSUMS, None))

    def _checked(self, sealed: str | None) -> dict[str, int]:
        if sealed is None:
            return {}
        try:
            plain = json.loads(sealed)
            sums, header = dict(plain["tensors"]), plain["header"]
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged("its checksums cannot be read") from error
        if header != _seal(self.header, sums) or set(sums) != set(self.shapes):
            raise Damaged("the checksum of its header is wrong")
        self.seal = header
        return sums

    def __getitem__(self, name: str) -> Tensor:
        try:
            tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise Damaged(str(error)) from error
        if name in self._sums and checksum(tensor) != self._sums[name]:
            raise Damaged(f"the checksum of {name} is wrong")
        return tensor


def checksum(tensor: Tensor) -> int:
    """CRC-32 of type, shape and bits."""
    plain = tensor.detach().cpu().contiguous()
    form = zlib.crc32(repr((str(plain.dtype), tuple(plain.shape))).encode())
    return zlib.crc32(plain.reshape(-1).view(torch.uint8).numpy().data, form)


def _seal(header: Mapping[str, str], sums: Mapping[str, int]) -> int:
    return zlib.crc32(json.dumps([sorted(header.items()), sorted(sums.items())]).encode())


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, with copies of what shares memory with another: safetensors wants one for each name."""
    result, seen = {}, set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        result[name] = plain.clone() if place in seen else plain
        seen.add(place)
    return result


@contextmanager
def _errors_of_the_system() -> Iterator[None]:
    """safetensors gives the number of the operating system's error in words: it becomes an ``OSError`` again."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
