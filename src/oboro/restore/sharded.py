"""Checkpoints of which every rank writes a part, by torch.distributed.checkpoint.

``last.ckpt`` is a small file then: all that is plain, in the place of each large tensor one without values, and
``checkpoint["shards"] = {"folder": name, "files": {file: checksum}}``. The values are in ``shards/<name>/`` beside it,
a safetensors file of each rank, with the rows (of the first axis) that it holds. So a checkpoint takes the place of
the one before in one rename of one file, as any other does, and several names for it are several names for that file.

The files are those of torch's ``HuggingFaceStorageReader``, with checksums. Its own format keeps its index as a pickle
that can call anything.
"""

import json
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.tensor_file import Damaged, TensorFile
from oboro.restore.archive import OTHERS, read_unchecked

FOLDER, KEY = "shards", "shards"
NAME, FILE = re.compile(r"\d{8,19}(-\d+)?"), re.compile(r"\d{5,9}\.safetensors")
OFFSETS = "DCP_SHARDING_INFO"  # of a header: {name: {"saved_offsets": [...]}}, as torch's reader has it


def mapped(node: Any, f: Callable[[Tensor, str], Tensor], place: str = "") -> Any:
    """Nested containers with ``f(tensor, place)`` for every tensor; a place is ``ema/averages/std005/first.weight``."""
    if isinstance(node, Tensor):
        return f(node, place)
    inner = f"{place}/" if place else ""
    if isinstance(node, Mapping):
        kind = OrderedDict if isinstance(node, OrderedDict) else dict
        return kind((key, mapped(child, f, f"{inner}{key}")) for key, child in node.items())
    if type(node) in (list, tuple):
        return type(node)(mapped(child, f, f"{inner}{i}") for i, child in enumerate(node))
    return node


def remove_unnamed(folder: Path) -> None:
    """Remove the shards that no checkpoint in ``folder`` names; all stay where one of these cannot be read."""
    present = [path for path in (folder / FOLDER).glob("*") if NAME.fullmatch(path.name)]
    if not present:
        return
    try:
        named = {read_unchecked(path).get(KEY, {}).get("folder") for path in folder.glob("*.ckpt")}
    except Exception:  # as many kinds as there are kinds of damage
        return
    for path in present:
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # the others are there
        (folder / FOLDER).rmdir()


class Gone(UserError):
    """Shards are missing: a run that goes on may have replaced the checkpoint meanwhile."""


def join_shards(checkpoint: Any, path: Path) -> Any:
    """``checkpoint``, as the file ``path`` has it, with the values of all its tensors.

    Raises ``UserError`` where shards are missing, damaged, or those of another checkpoint.
    """
    if not isinstance(checkpoint, dict):
        return checkpoint
    named = checkpoint.get(KEY)
    found = {} if named is None else read_pieces(named, path)

    def whole(tensor: Tensor, place: str) -> Tensor:
        if not tensor.is_meta:
            return tensor
        pieces = sorted(found.pop(place, []), key=lambda piece: piece[0])
        if not tensor.numel():
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        rows = [own for _, own in pieces]
        if any(own.shape[1:] != tensor.shape[1:] or own.dtype != tensor.dtype or not own.ndim for own in rows):
            raise damaged(path, f"{place} is of another form in its shards")
        ends = list(accumulate(len(own) for own in rows))
        if [first for first, _ in pieces] != [0, *ends[:-1]] or ends[-1:] != [len(tensor)]:
            raise damaged(path, f"rows of {place} are missing")
        return torch.cat(rows)

    content = mapped({key: value for key, value in checkpoint.items() if key != KEY}, whole)
    if found:
        raise damaged(path, f"{next(iter(found))} belongs to no tensor of it")
    return content


def read_pieces(named: Any, path: Path) -> dict[str, list[tuple[int, Tensor]]]:
    """The rows that lie in the files that the checkpoint ``path`` has ``named``, with the first of them, by place."""
    name, files = (named.get("folder"), named.get("files")) if isinstance(named, dict) else (None, None)
    if not isinstance(name, str) or not NAME.fullmatch(name) or not isinstance(files, dict):
        raise damaged(path, "it names no shards")
    if not all(isinstance(file, str) and FILE.fullmatch(file) for file in files):
        raise damaged(path, "it names files that are no shards")
    folder = path.parent / FOLDER / name
    if absent := [file for file in files if not (folder / file).is_file()]:
        raise Gone(
            f"{path} keeps its weights in {FOLDER}/{name} beside it and there is no {absent[0]}; copy the folder "
            f"{FOLDER} of the run there, or copy a file that `oboro pack` made of the checkpoint."
        )
    pieces: dict[str, list[tuple[int, Tensor]]] = {}
    try:
        opened = [TensorFile(folder / file) for file in files]  # all of them, before a run removes one
        for content in opened:
            if content.seal is None or content.seal != files[content.path.name]:
                raise Damaged(f"{content.path.name} is not of this checkpoint, by its checksum")
            firsts = json.loads(content.header[OFFSETS])
            for place in content.shapes:
                first = int(firsts[place]["saved_offsets"][0])
                pieces.setdefault(place, []).append((first, content[place]))
    except (Damaged, ValueError, KeyError, TypeError, IndexError) as error:
        raise damaged(path, f"in its shards, {error}") from error
    return pieces


def damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged ({what}); {OTHERS}.")
