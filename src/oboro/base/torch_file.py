"""Files of ``torch.save`` that others wrote: what their pickles would build is looked at first."""

import pickletools
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

PICKLE, ZIP = b"\x80", b"PK\x03\x04"
PICKLED = 64 * 2**20  # bytes of the pickle of a file at most; tensors lie beside it
DEPTH, OBJECTS = 100, 10_000_000  # levels of containers, and values that a walk through all of them meets
UNUSED = ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "DUP", "NEWOBJ_EX")
LEGACY = 5  # pickles of the old format: magic number, version, system, content, names of storages
# What builds tensors out of storages that are in the file, and values no larger than they are written. Others of those
# that torch allows take memory for a number: bytearray(10 ** 12), torch.Tensor(10 ** 12).
BUILT = {
    *("collections.OrderedDict", "collections.Counter", "_codecs.encode", "builtins.set", "builtins.complex"),
    *("__builtin__.set", "__builtin__.complex", "torch.Size", "torch.device", "torch.serialization._get_layout"),
    *(f"torch._utils._rebuild_{what}" for what in ("tensor", "tensor_v2", "tensor_v3", "parameter", "sparse_tensor")),
    *(f"torch._utils._rebuild_{what}" for what in ("parameter_with_state", "meta_tensor_no_storage", "qtensor")),
}


class Compressed(ValueError):
    """An archive that torch does not write: its entries could unpack to any size."""


def load(path: Path) -> Any:
    """The tensors (on the CPU), containers and plain values of a file of ``torch.save``; nothing in it is called.

    Memory is bounded by the size of the file. Raises ``ValueError``, with ``GLOBAL <name>`` in its text where the file
    wants to build ``name``, for one that is compressed, that has deep or endless containers, or tensors that claim more
    numbers than there are; else whatever torch raises on a damaged file.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(ZIP):
        check_archive(path)
    elif start.startswith(PICKLE):
        with path.open("rb") as file:
            for _ in range(LEGACY):
                check_pickle(file)
    else:
        raise ValueError("no file of torch.save")
    content = torch.load(path, map_location="cpu", weights_only=True)
    check_tensors(content)
    return content


def check_archive(path: Path) -> None:
    """Raises ``ValueError`` where the archive would unpack to more than it is, or its pickle is none of values."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise Compressed("compressed")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("entries that share their bytes")
        for entry in entries:
            if entry.filename.rpartition("/")[2].endswith(".pkl"):
                if entry.file_size > PICKLED:
                    raise ValueError(f"a pickle of {entry.file_size:,} bytes")
                with archive.open(entry) as file:
                    check_pickle(file)


def check_pickle(file: IO[bytes]) -> None:
    """Walks through the opcodes of one pickle without building anything. Raises ``ValueError`` for names that are not
    in ``BUILT``, for containers in themselves, and for more levels or values than there may be; and whatever comes of
    opcodes in an order that is none."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    begin = file.tell()
    for opcode, argument, place in pickletools.genops(file):
        if (place or 0) - begin > PICKLED:
            raise ValueError("a pickle of too many bytes")
        if opcode.name == "GLOBAL":
            check_name(str(argument).replace(" ", "."))
        if opcode.name in UNUSED:
            raise ValueError(f"the opcode {opcode.name}, which torch does not write")
        if opcode.name in ("BINGET", "LONG_BINGET", "GET"):
            held = memo[argument]
            held.closed = True  # what changes after it was put elsewhere may be in itself
            stack.append(Held(held.size, held.depth, closed=True))
        elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif opcode.name not in ("PROTO", "FRAME", "STOP"):
            step(stack, opcode)


class Held:
    """Something on the stack of the unpickler: values in it, levels below it, and whether it was put away before."""

    __slots__ = ("closed", "depth", "size")

    def __init__(self, size: int = 1, depth: int = 0, closed: bool = False):
        self.size, self.depth, self.closed = size, depth, closed


MARK = Held(0)


def step(stack: list[Any], opcode: pickletools.OpcodeInfo) -> None:
    """What ``opcode`` does to the sizes on the ``stack``."""
    taken: list[Held] = []
    if pickletools.markobject in opcode.stack_before:
        while (held := stack.pop()) is not MARK:
            taken.append(held)
        more = opcode.stack_before.index(pickletools.markobject)
    else:
        more = len(opcode.stack_before)
    taken += [stack.pop() for _ in range(more)]
    if opcode.name == "MARK":
        stack.append(MARK)
        return
    if not opcode.stack_after:
        return
    grows = opcode.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
    made = taken[-1] if grows else Held()
    if grows and made.closed:
        raise ValueError("a container that changes after it was used")
    made.size += sum(held.size for held in taken if held is not made)
    made.depth = max([made.depth, *(held.depth + 1 for held in taken if held is not made)])
    if made.size > OBJECTS or made.depth > DEPTH:
        raise ValueError(f"more than {OBJECTS:,} values or {DEPTH} levels")
    stack += [made] * len(opcode.stack_after)


def check_name(name: str) -> None:
    module, _, last = name.rpartition(".")
    if name in BUILT or (module == "torch" and (last.endswith("Storage") or is_constant(last))):
        return
    raise ValueError(f"GLOBAL {name}")


def is_constant(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype | torch.qscheme | torch.layout)


def check_tensors(content: Any) -> None:
    """Raises ``ValueError`` for a tensor of more numbers than its storage has: a single 0 can claim any number."""
    for value in values(content):
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta:
            with suppress(RuntimeError):  # of what has no storage
                if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                    raise ValueError("a tensor that claims more numbers than there are")


def values(content: Any) -> Iterator[Any]:
    """Everything in nested containers."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value
