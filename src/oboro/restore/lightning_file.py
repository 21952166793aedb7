"""How Lightning reads and writes a run's checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO

from oboro.base.errors import UserError
from oboro.restore.archive import write_checkpoint
from oboro.restore.checkpoint import forget_checkpoint, load_checkpoint
from oboro.restore.finite import not_finite


class CheckpointFile(CheckpointIO):
    """Reads what ``load_checkpoint`` does, with all its checks, and writes beside the file that is replaced.

    Lightning's own writes a copy in memory and then one in ``$TMPDIR``, from where a kill can leave half a file.
    Ranks meet after one of them has written, so what went wrong is kept and not raised: ``failure`` is an ``OSError``,
    or a ``UserError`` for a run whose numbers are not finite, of which nothing is written.
    """

    def __init__(self) -> None:
        self.failure: OSError | UserError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.failure = None
        what = not_finite(checkpoint)
        if what is not None:
            self.failure = UserError(
                f"{what} is not finite at step {checkpoint['global_step']}, so no checkpoint of it is written; go on "
                "from an earlier one with resume=<its path> and a lower optimizer.lr."
            )
            return
        try:
            write_checkpoint(checkpoint, Path(path))
        except OSError as error:
            self.failure = error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Nothing else keeps the tensors, which training goes on with, or the containers, which are changed."""
        checkpoint = load_checkpoint(path)
        forget_checkpoint()
        return {key: copied(value) for key, value in checkpoint.items()}

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


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
