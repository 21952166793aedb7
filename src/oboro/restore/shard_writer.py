"""Writing checkpoints in shards (``oboro.restore.sharded``): torch.distributed.checkpoint lets the ranks agree on who
writes what, and on whether all have."""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
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
from oboro.base.tensor_file import write_tensors
from oboro.base.whole_file import sync
from oboro.restore.archive import write_checkpoint
from oboro.restore.sharded import FOLDER, KEY, OFFSETS, mapped, remove_unnamed

LARGE = 2**12  # bytes of a tensor that lies apart


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
        self.made = None  # a checkpoint names it: what fails from here on, as a rank that is gone, takes nothing back
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
