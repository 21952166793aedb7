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
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner, StorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from oboro.base import shards
from oboro.base.errors import UserError
from oboro.base.staged import staged, staged_tensors
from oboro.base.tensor_file import Damaged, TensorFile, write_tensors
from oboro.base.whole_file import sync
from oboro.restore.archive import OTHERS, read_unchecked, write_checkpoint

FOLDER, KEY = "shards", "shards"
NAME, FILE = re.compile(r"\d{8,19}(-\d+)?"), re.compile(r"\d{5,9}\.safetensors")
LARGE = 2**12  # bytes of a tensor that lies apart
OFFSETS = "DCP_SHARDING_INFO"  # of a header: {name: {"saved_offsets": [...]}}, as torch's reader has it


@dataclass(frozen=True)
class Piece:
    """What this rank holds of a tensor (n, ...): ``rows`` from ``first`` on."""

    rows: Tensor
    first: int
    size: torch.Size

    def item(self, name: str) -> WriteItem:
        """The piece in the words of torch."""
        offsets = torch.Size([self.first, *(0 for _ in self.size[1:])])
        chunk = ChunkStorageMetadata(offsets=offsets, sizes=self.rows.shape)
        data = TensorWriteData(chunk, TensorProperties.create_from_tensor(self.rows), self.size)
        return WriteItem(MetadataIndex(name, offsets), WriteItemType.SHARD, tensor_data=data)


@dataclass(frozen=True)
class Split:
    """A checkpoint with tensors without values in the place of large ones, and what this rank holds of these, by their
    places."""

    plain: dict[str, Any]
    pieces: dict[str, Piece]

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], first: bool) -> "Split":
        """What is whole on every rank is that of the ``first`` one."""
        pieces: dict[str, Piece] = {}

        def piece(tensor: Tensor, place: str) -> Tensor:
            whole = not shards.any_shard([tensor])
            if whole and (tensor.nbytes < LARGE or tensor.ndim == 0 or tensor.is_complex()):
                return tensor
            if first or not whole:
                pieces[place] = Piece(*shards.rows(tensor), tensor.shape)
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

        plain = mapped(checkpoint, piece)
        return cls(plain, pieces)

    def staged(self) -> "Split":
        """In memory of its own, which training leaves alone."""
        rows = staged_tensors(piece.rows for piece in self.pieces.values())
        pieces = {name: replace(p, rows=r) for (name, p), r in zip(self.pieces.items(), rows, strict=True)}
        return Split(staged(self.plain), pieces)

    @property
    def own(self) -> dict[str, Any]:
        """The checkpoint with the rows of this rank in the place of whole tensors."""
        return mapped(self.plain, lambda tensor, place: self.pieces[place].rows if place in self.pieces else tensor)


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


class _Plan(DefaultSavePlanner):
    """Every rank writes the pieces that it has."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan([p.item(name) for name, p in self.state_dict.items() if p.rows.numel()])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Any:
        return self.state_dict[index.fqn].rows


class _Files(StorageWriter):
    """A new folder in ``shards`` with a file of each rank, and then, by the first rank, the checkpoint that names them.

    ``check`` raises on any rank what is wrong with the numbers; then nothing of the checkpoint stays."""

    def __init__(self, plain: dict[str, Any], path: Path, check: Callable[[], None]):
        self.plain, self.path, self.check = plain, path, check
        self.made: Path | None = None  # by the first rank

    def reset(self, checkpoint_id: Any = None) -> None:
        """One writer is for one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing is needed."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        name = step = f"{self.plain['global_step']:08d}"
        number = 0
        while (folder := self.path.parent / FOLDER / name).exists():
            name, number = f"{step}-{number + 1}", number + 1
        folder.mkdir(parents=True)
        self.made = folder
        return [replace(plan, storage_data=f"{name}/{i:05d}.safetensors") for i, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        self.check()
        done: Future[list[WriteResult]] = Future()
        done.set_result(self._written(plan, planner) if plan.items else [])
        return done

    def _written(self, plan: SavePlan, planner: SavePlanner) -> list[WriteResult]:
        tensors = {item.index.fqn: planner.resolve_data(item) for item in plan.items}
        offsets = {item.index.fqn: {"saved_offsets": list(item.index.offset or ())} for item in plan.items}
        header = {"format": "pt", "DCP_VERSION": "1.0", OFFSETS: json.dumps(offsets)}
        seal = write_tensors(self.path.parent / FOLDER / plan.storage_data, tensors, header)
        file = plan.storage_data.rpartition("/")[2]
        return [WriteResult(item.index, tensors[item.index.fqn].nbytes, (file, seal)) for item in plan.items]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        assert self.made is not None
        for folder in (self.made, self.made.parent):
            with suppress(OSError):  # not every file system can do this for a folder
                sync(folder)
        files = dict(result.storage_data for written in results for result in written)
        write_checkpoint({**self.plain, KEY: {"folder": self.made.name, "files": files}}, self.path)
        remove_unnamed(self.path.parent)

    def undo(self) -> None:
        if self.made is not None:
            shutil.rmtree(self.made, ignore_errors=True)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


def write_sharded(split: Split, path: Path, group: Any, check: Callable[[dict[str, Any]], None]) -> None:
    """Write the checkpoint ``path``. All ranks of ``group`` call it, or one process alone, with None.

    ``check`` gets what each rank has and raises where it must not be written. Raises on all ranks what any of them
    has met, an ``OSError`` or a ``UserError`` first; then ``path`` and what it names are as they were.
    """
    writer, planner = _Files(split.plain, path, lambda: check(split.own)), _Plan()
    try:
        if group is None:
            _alone(split.pieces, writer, planner)
        else:
            dcp.save(dict(split.pieces), storage_writer=writer, planner=planner, process_group=group)
    except CheckpointException as failed:
        writer.undo()
        errors = [error for error, _ in failed.failures.values()]
        raise next((e for e in errors if isinstance(e, UserError | OSError)), errors[0]) from failed
    except BaseException:
        writer.undo()
        raise


def _alone(pieces: dict[str, Piece], writer: _Files, planner: _Plan) -> None:
    """``dcp.save`` of one process, which would warn of that."""
    planner.set_up_planner(dict(pieces), is_coordinator=True)
    plans, metadata = planner.create_global_plan([planner.create_local_plan()])
    (plan,) = writer.prepare_global_plan(plans)
    writer.finish(metadata, [writer.write_data(planner.finish_plan(plan), planner).value()])


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
