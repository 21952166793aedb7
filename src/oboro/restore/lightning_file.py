"""How Lightning reads and writes a run's checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO

from oboro.base import distributed
from oboro.base.background import Background
from oboro.base.errors import UserError
from oboro.base.shards import any_shard
from oboro.base.staged import staged
from oboro.restore.archive import write_checkpoint
from oboro.restore.checkpoint import forget_checkpoint, load_checkpoint
from oboro.restore.finite import not_finite, numbers
from oboro.restore.shard_writer import Split, write_sharded
from oboro.restore.sharded import remove_unnamed


@dataclass(frozen=True)
class Way:
    """How a checkpoint is written: by every rank what it has (``oboro.restore.sharded``), and in the background."""

    sharded: bool = False
    asynchronous: bool = False


class CheckpointFile(CheckpointIO):
    """Reads what ``load_checkpoint`` does, with all its checks, and writes beside the file that is replaced.

    Lightning's own writes a copy in memory and then one in ``$TMPDIR``, from where a kill can leave half a file.
    Ranks meet after one of them has written, so what went wrong is kept and not raised: ``failure`` is an ``OSError``,
    or a ``UserError`` for a run whose numbers are not finite, of which nothing is written.

    With a ``Way`` as the options of storage it writes so. In the background it copies everything to the memory of the
    host first; ``failure`` is known after ``wait``. The next one waits for the one before.
    """

    def __init__(self) -> None:
        self.failure: OSError | UserError | None = None
        self._background = Background()
        self._group: Any = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """All ranks where any weight is a shard and the way is ``sharded``, else the first one alone."""
        self.wait()
        self.failure = None
        way = storage_options if isinstance(storage_options, Way) else Way()
        write = self._sharded if way.sharded else self._plain
        work = write(checkpoint, Path(path), way.asynchronous)
        if way.asynchronous:
            self._background.start(work)
        else:
            work()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether nothing is being written, after ``seconds`` at most."""
        return self._background.wait(seconds)

    def _plain(self, checkpoint: dict[str, Any], path: Path, apart: bool) -> Callable[[], None]:
        content = staged(checkpoint) if apart else checkpoint

        def write() -> None:
            check_finite(content)
            write_checkpoint(content, path)
            remove_unnamed(path.parent)  # of one in shards that it has replaced

        return partial(self._noting, write)

    def _sharded(self, checkpoint: dict[str, Any], path: Path, apart: bool) -> Callable[[], None]:
        every = any_shard(tensor for _, tensor in numbers(checkpoint, ()))
        if every and self._group is None:
            self._group = distributed.group_beside()
        split = Split.of(checkpoint, first=not every or distributed.rank() == 0)
        split = split.staged() if apart else split
        group = self._group if every else None
        return partial(self._noting, lambda: write_sharded(split, path, group, check_finite))

    def _noting(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, UserError) as error:
            self.failure = error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Nothing else keeps the tensors, which training goes on with, or the containers, which are changed."""
        checkpoint = load_checkpoint(path)
        forget_checkpoint()
        return {key: copied(value) for key, value in checkpoint.items()}

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def check_finite(checkpoint: Mapping[str, Any]) -> None:
    """Raises ``UserError`` for a checkpoint with numbers that are not finite."""
    what = not_finite(checkpoint)
    if what is not None:
        raise UserError(
            f"{what} is not finite at step {checkpoint['global_step']}, so no checkpoint of it is written; go on "
            "from an earlier one with resume=<its path> and a lower optimizer.lr."
        )


def copied(node: Any) -> Any:
    """Containers anew, with the same tensors."""
    if isinstance(node, Mapping):
        return {key: copied(child) for key, child in node.items()}
    return type(node)(copied(child) for child in node) if type(node) in (list, tuple) else node


def use_checkpoint_file(strategy: Any) -> CheckpointFile | None:
    """Have ``strategy`` read and write so, unless it was given another way; None then."""
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = CheckpointFile()
    return strategy.checkpoint_io if isinstance(strategy.checkpoint_io, CheckpointFile) else None
