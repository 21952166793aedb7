"""Checkpoint files: tensors, plain containers and the configuration of the run, so that a path is enough."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.utils import get_class

from oboro.base.errors import UserError
from oboro.restore.archive import OTHERS, check_archive
from oboro.restore.old import renewed
from oboro.restore.plain import plain

# What evaluate.py and sample.py take from a checkpoint unless the command line names another.
FROM_CHECKPOINT = ("schedule", "sampler", "guidance", "metrics", "extractor", "data")
BUILT = ("task", *FROM_CHECKPOINT)  # what is built of a configuration that came with a file
BESIDE = ("trainer", "callbacks", "logger")  # what a run has beside its task


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The checkpoint at ``path``, tensors on the CPU. Raises ``UserError`` if it is missing, not one of ours, damaged
    (by its checksums, ``oboro.restore.archive``), or holds a number that is not finite.

    Frozen parts that lie beside it (``oboro.restore.frozen``) are among its weights, and so is what ranks have written
    apart (``oboro.restore.sharded``); ``UserError`` if one is missing.
    The file is read once and remembered until another one is read or ``forget_checkpoint`` is called; its checksums are
    looked at once.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; give the path of a .ckpt file that train.py wrote.")
    from oboro.restore.foreign import refuse_foreign  # with torch: as in _read

    checkpoint = _newest(path)
    named = {**checkpoint["config"], "modality": checkpoint.get("modality", {})}
    refuse_foreign(named, ("modality", *BUILT), path)  # at each call: trust is in packages of the caller's
    return dict(checkpoint)


def _newest(path: Path) -> dict[str, Any]:
    """A run that goes on may replace the file and remove its shards between two looks at them."""
    from oboro.restore.sharded import Gone  # with torch: as in _read

    while True:
        state = path.stat()
        try:
            return _read(path.resolve(), state.st_mtime_ns, state.st_size, path)
        except Gone:
            if path.stat().st_mtime_ns == state.st_mtime_ns:
                raise


@lru_cache(maxsize=1)
def _read(path: Path, modified: int, size: int, name: Path) -> dict[str, Any]:
    # Here, with torch: a command without a checkpoint starts without (oboro.cli.run).
    from oboro.base.torch_file import load
    from oboro.restore.finite import not_finite
    from oboro.restore.form import check_form
    from oboro.restore.frozen import join
    from oboro.restore.sharded import join_shards

    check_archive(path, modified, size, name)
    try:
        checkpoint = load(path)
    except Exception as error:  # whatever the unpickler trips over in a file that is not a checkpoint
        raise UserError(f"{name} is damaged or no checkpoint at all; {OTHERS}.") from error
    checkpoint = join_shards(checkpoint, path)
    check_form(checkpoint, name)
    plain([checkpoint["config"], checkpoint.get("modality")], name)
    if (what := not_finite(checkpoint)) is not None:
        raise UserError(
            f"{name} is of a run that has diverged: {what} is not finite; use an earlier one, or train with a lower "
            "optimizer.lr."
        )
    join(checkpoint, path)
    return {**checkpoint, "config": renewed(checkpoint["config"])}


def forget_checkpoint() -> None:
    """Frees the memory of the file that was read last."""
    _read.cache_clear()


def kind_of(checkpoint: dict[str, Any]) -> str:
    """The option of the group ``task`` that a checkpoint is of."""
    return option_of(get_class(checkpoint["config"]["task"]["_target_"]))


def option_of(cls: type) -> str:
    """The option that is named after a class: denoising_autoencoder of DenoisingAutoencoder, gan of GAN."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()


# What a checkpoint of a task is beside: what these have learned is a denoiser that draws samples.
ALSO = dict.fromkeys(("distillation", "gan", "denoising_autoencoder"), "diffusion")


def check_kind(checkpoint: dict[str, Any], path: str | Path, *kinds: str) -> None:
    """Raises ``UserError`` where the checkpoint is not one of a task of ``kinds``, nor ``ALSO`` one."""
    if not {kind_of(checkpoint), ALSO.get(kind_of(checkpoint))} & set(kinds):
        fitting = " or ".join(f"task={kind}" for kind in kinds)
        raise UserError(
            f"{path} is a checkpoint of task={kind_of(checkpoint)}; give one that train.py wrote with {fitting}."
        )
