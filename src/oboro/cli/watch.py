"""python evaluate.py watch=RUN: measuring beside a run that trains."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lightning import Fabric
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig

from oboro.cli.checkpoint import POLL
from oboro.cli.running import is_running
from oboro.cli.sample import open_task
from oboro.evaluate.evaluator import Evaluator
from oboro.evaluate.result import Result
from oboro.logger import JSONL, log_result
from oboro.report.table import number
from oboro.task import Generation

Measure = Callable[[DictConfig, Evaluator, Generation, Fabric], list[Result]]


def watch(config: DictConfig, evaluator: Evaluator, fabric: Fabric, measure: Measure) -> None:
    """Measure every new ``last.ckpt`` of the run, until that of its last step, or of the step at which it ended.

    Numbers are added to the run's ``metrics.jsonl`` and TensorBoard events, at the step of the checkpoint. Checkpoints
    that come and go while one is measured are passed over, and no step is measured twice in a row.
    """
    run, measured, last = Path(config.watch).expanduser(), None, 0
    for path in new_checkpoints(run, config.idle):
        checkpoint, task = open_task(config, path, fabric)
        step, settings = checkpoint["global_step"], checkpoint["config"]
        if step != measured:  # the file may have been replaced after it was found and before it was read
            (result,) = measure(config, evaluator, task, fabric)
            report(run, settings["data"]["batch_size"], step, result)
        measured, last = step, settings["trainer"]["max_steps"]
        if step >= last:
            return
    ended = "has ended" if is_running(run) is False else f"has written no checkpoint for {config.idle:g} seconds"
    print(f"{run} {ended}, at step {measured:,} of {last:,}")


def new_checkpoints(
    run: Path, idle: float, wait: Callable[[float], None] = time.sleep, now: Callable[[], float] = time.monotonic
) -> Iterator[Path]:
    """``last.ckpt`` of the run, each time it is another file.

    It ends where the run has, or, where nothing says whether it goes on, when there was no new file for ``idle`` s.
    """
    path = run / "checkpoints" / "last.ckpt"
    seen, since = None, now()
    while True:
        alive = is_running(run)  # first: what a run writes last is there once it has ended
        written = version(path)
        if written not in (None, seen):
            yield path
            seen, since = written, now()
        elif alive is False or (alive is None and now() - since > idle):
            return
        else:
            wait(POLL)


def version(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from the one that replaces it; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def report(run: Path, images_per_step: int, step: int, result: Result) -> None:
    """To the run's own files, and a line on the terminal."""
    board = TensorBoardLogger(run, name="tensorboard", version="")
    log_result([JSONL(str(run), images_per_step, clock=False), board], result, step)
    board.finalize("success")
    print(f"step {step:,}:", ", ".join(f"{name} {number(value)}" for name, value in result.numbers.items()))
