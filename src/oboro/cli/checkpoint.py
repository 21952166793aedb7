"""What was chosen in training is what sampling and evaluation begin with."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from oboro.base.errors import UserError
from oboro.base.grammar import files, values
from oboro.cli.arguments import MULTIRUN
from oboro.cli.offered import elsewhere, offer
from oboro.cli.running import is_running
from oboro.restore.checkpoint import FROM_CHECKPOINT, check_kind, load_checkpoint

POLL = 5.0  # seconds between two looks at a folder
IDLE = 3600.0  # as in conf/evaluate.yaml


def latest_checkpoint(
    run: Path,
    idle: float = IDLE,
    wait: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Path:
    """Where a run keeps its newest checkpoint; waits for the first one, where nothing says whether the run goes on
    for ``idle`` seconds. ``UserError`` if there is no such run, or if it ended without any."""
    if not run.is_dir():
        raise UserError(f"there is no run {run}; give the output folder of a train.py that is running or has run.")
    path, since = run / "checkpoints" / "last.ckpt", now()
    if not path.is_file() and not (run / ".hydra").is_dir():
        raise UserError(f"{run} is no run of train.py; give the output folder of one that is running or has run.")
    if not path.is_file():
        print(f"waiting for the first checkpoint, {path}", file=sys.stderr)
    while not path.is_file():
        alive = is_running(run)
        if alive is False and not path.is_file():
            raise UserError(f"the run {run} has ended without a checkpoint; see {run / 'train.log'}.")
        if alive is None and now() - since > idle:
            raise UserError(
                f"the run {run} has written no checkpoint for {idle:g} seconds, and nothing says whether it goes on; "
                f"see {run / 'train.log'}, or wait longer with idle=<seconds>"
            )
        wait(POLL)
    return path


def stored(config: dict[str, Any], group: str) -> dict[str, Any]:
    """What a checkpoint was trained with; the schedule is a part of the denoiser."""
    owner = config["task"].get("denoiser", {}) if group == "schedule" else config
    return owner.get(group, {})


def configuration(path: str, kinds: Sequence[str]) -> dict[str, Any]:
    """That of a checkpoint of one of the tasks ``kinds``. Raises ``UserError`` if there is none, or another task's."""
    checkpoint = load_checkpoint(path)
    check_kind(checkpoint, path, *kinds)
    return checkpoint["config"]


def apart(arguments: list[str], launcher: str) -> bool:
    """Whether each checkpoint is that of a process of its own; ``launcher`` is the one of a sweep that names none."""
    named = [argument.partition("=")[2] for argument in arguments if argument.startswith("hydra/launcher=")]
    return any(argument in MULTIRUN for argument in arguments) and (named or [launcher])[-1] == "processes"


def offer_checkpoint(arguments: list[str], kinds: Sequence[str] = ("diffusion",), launcher: str = "basic") -> None:
    """Make what ``checkpoint=PATH`` or ``watch=RUN`` was trained with the options called ``from_checkpoint``.

    So that ``sample.py checkpoint=PATH sampler.steps=10`` changes one value of what the checkpoint was trained with.
    Like every data option, that of the checkpoint chooses the extractor. Without such an argument the options are
    empty, which is enough for ``--help``. Jobs of a sweep that are processes of their own offer what their checkpoint
    has (``launcher`` is that of a sweep that names none); of those that share this one all checkpoints have to agree,
    or a ``UserError`` says in what they do not.
    """
    paths = files(arguments, "checkpoint")
    idle = next((v for v in values(arguments, "idle") if isinstance(v, int | float)), IDLE)
    paths += [str(latest_checkpoint(Path(run).expanduser(), idle)) for run in files(arguments, "watch")]
    configs = [configuration(path, kinds) for path in paths]
    for group in FROM_CHECKPOINT:
        nodes = [stored(c, group) for c in configs]
        named = any(argument.startswith(f"{group}=") for argument in arguments)
        if not named and not apart(arguments, launcher) and any(node != nodes[0] for node in nodes):
            raise UserError(
                f"these checkpoints differ in their {group}; sweep over checkpoints of one setting, or name {group}=..."
            )
        node = nodes[0] if nodes else {}
        offer(group, node, paths[0] if paths else None, [elsewhere("extractor")] if group == "data" else [])
