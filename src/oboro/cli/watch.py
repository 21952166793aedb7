"""python evaluate.py watch=RUN: measuring beside a run that trains."""

import time
from collections.abc import Callable
from pathlib import Path

from lightning import Fabric
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig

from oboro.cli.checkpoint import POLL, latest_checkpoint
from oboro.cli.sample import open_task
from oboro.evaluate.evaluator import Evaluator
from oboro.evaluate.result import Result
from oboro.logger import JSONL, log_result
from oboro.report.table import number
from oboro.task import Diffusion

Measure = Callable[[DictConfig, Evaluator, Diffusion, Fabric], list[Result]]


def watch(config: DictConfig, evaluator: Evaluator, fabric: Fabric, measure: Measure) -> None:
    """Measure every new ``last.ckpt`` of the run, until that of its last step.

    Numbers are added to the run's ``metrics.jsonl`` and TensorBoard events, at the step of the checkpoint. Checkpoints
    that come and go while one is measured are passed over.
    """
    run = Path(config.watch).expanduser()
    path, seen = latest_checkpoint(run), None
    while True:
        written = path.stat().st_mtime_ns
        if written == seen:
            time.sleep(POLL)
            continue
        seen = written
        checkpoint, task = open_task(config, path, fabric)
        step, settings = checkpoint["global_step"], checkpoint["config"]
        (result,) = measure(config, evaluator, task, fabric)
        report(run, settings["data"]["batch_size"], step, result)
        if step >= settings["trainer"]["max_steps"]:
            return


def report(run: Path, images_per_step: int, step: int, result: Result) -> None:
    """To the run's own files, and a line on the terminal."""
    board = TensorBoardLogger(run, name="tensorboard", version="")
    log_result([JSONL(str(run), images_per_step, clock=False), board], result, step)
    board.finalize("success")
    print(f"step {step:,}:", ", ".join(f"{name} {number(value)}" for name, value in result.numbers.items()))
