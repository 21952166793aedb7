"""python train.py hydra.run.dir=FOLDER resume=auto: the run in the folder goes on, or begins there.

The same command starts a run, goes on with it after any end, and does nothing once it is finished.
"""

from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from oboro.base.errors import UserError
from oboro.base.grammar import is_true, quoted, values
from oboro.cli.claim import is_follower, own
from oboro.cli.folder import AUTO
from oboro.cli.resume import key_of, split
from oboro.cli.running import read_record
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.evaluated import FILE, read_outcomes
from oboro.restore.rebuild import check_trainable

BEGIN = ("init", "init_profile")  # what a run began with, and is without once it goes on
ENDS = ("trainer.max_", "trainer.min_", "callbacks.")  # differences that move the end of a run


@dataclass(frozen=True)
class Choice:
    """The checkpoint that ``resume=auto`` goes on from, None without any; whether the run came to its planned end
    there; and what there is to say."""

    path: Path | None
    finished: bool
    lines: tuple[str, ...]

    def ends(self, differences: list[str]) -> bool:
        """Whether nothing is left to do, with these differences of the command line."""
        return self.finished and not any(line.startswith(ENDS) for line in differences)


_choice: ContextVar[Choice | None] = ContextVar("choice", default=None)


def choice() -> Choice | None:
    """What ``resume=auto`` of this process has chosen; None where it was not on the command line."""
    return _choice.get()


def settle_auto(arguments: list[str], runs: bool) -> list[str]:
    """``arguments`` of train.py with the checkpoint in the place of ``auto``, or with null where the folder has none;
    as they are where the folder is known only once they are composed (``oboro.cli.claim``). Null is named, since files
    of options can have ``resume`` and ``init``, too.

    ``runs``: the folder is owned from here on. Raises ``UserError`` where it has checkpoints and none is valid.
    """
    _choice.set(None)
    folders = values(arguments, "hydra.run.dir")
    if values(arguments, "resume")[-1:] != [AUTO] or not folders or "${" in str(folders[-1]):
        return arguments
    folder = Path(str(folders[-1])).absolute()
    before = read_record(folder)
    if runs and folder.exists() and not is_follower():
        own(folder, "train", AUTO, overwrite=any(map(is_true, values(arguments, "overwrite"))))
    path, damaged = newest(folder)
    if path is None and damaged:
        raise UserError(
            f"none of the checkpoints in {folder / 'checkpoints'} is valid ({damaged[0]}); put a good one there, or "
            "add overwrite=true in the place of resume=auto to start over"
        )
    words, flags = split(arguments)
    rest = [word for word in words if key_of(word) != "resume"]
    if path is None:
        _choice.set(Choice(None, False, (f"resume=auto: {folder} has no checkpoint; the run begins at step 0",)))
        return [*flags, *rest, "resume=null"]
    intact = not damaged or path.name == "last.ckpt"
    finished = before is not None and before.finished and intact
    _choice.set(Choice(path, finished, tuple(lines(path, damaged))))
    without = [f"{key}=null" for key in BEGIN]
    return [*flags, *(w for w in rest if key_of(w) not in BEGIN), *without, f"resume={quoted(str(path))}"]


def lines(path: Path, damaged: list[str]) -> Iterator[str]:
    for reason in damaged:
        yield f"warning: resume=auto passes over a damaged checkpoint: {reason}"
    yield f"resume=auto: the run goes on from {path}, step {load_checkpoint(path)['global_step']}"


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The valid checkpoint of the latest step in the folder of a run, of those of one step ``last.ckpt``; and what is
    wrong with those that would have come before it."""
    damaged = []
    for path in sorted((folder / "checkpoints").glob("*.ckpt"), key=rank, reverse=True):
        try:
            check_trainable(load_checkpoint(path), path)
            return path, damaged
        except UserError as error:
            reason = str(error).rstrip(".")
            damaged.append(f"{path.name}: {reason}")
    return None, damaged


def rank(path: Path) -> tuple[bool, float, bool, int]:
    """Later is greater. A file whose step cannot be read comes first, for its damage to be seen, and one of a course
    that the run has left last."""
    step = peeked_step(path)
    return not is_left(path, step), step, path.name == "last.ckpt", path.stat().st_mtime_ns


def is_left(path: Path, step: float) -> bool:
    """Whether ``best.ckpt`` is of a step that the run has gone back from: the outcomes do not have it."""
    if path.name != "best.ckpt" or not isfinite(step) or not (path.parent / FILE).is_file():
        return False
    return step not in read_outcomes(path.parent)


def peeked_step(path: Path) -> float:
    """The step of a checkpoint without its weights; infinite where it cannot be read."""
    import torch  # as in oboro.restore.checkpoint

    try:
        content: Any = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        return float(content["global_step"])
    except Exception:  # whatever a file that is no checkpoint makes the unpickler raise
        return float("inf")
