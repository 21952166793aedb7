"""python evaluate.py"""

import json
import time
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from oboro import distributed, evaluation
from oboro.cli.run import task_function
from oboro.cli.sample import start
from oboro.data import ImageData
from oboro.errors import UserError
from oboro.metrics import Metric


@task_function
def evaluate(config: DictConfig) -> None:
    """Measure ``n`` samples of a checkpoint and write ``evaluation.json``: values, protocol, seconds."""
    if config.n < 2 or config.chunk < 1:
        raise UserError(
            f"n={config.n} samples with chunk={config.chunk} measure nothing; set n to 2 or more, chunk to 1."
        )
    metric: Metric = instantiate(OmegaConf.to_container(config.metrics, resolve=True), _convert_="all")
    if not metric.active:
        raise UserError("the checkpoint was trained unmeasured; choose a metric, metrics=frechet_inception for one.")
    data: ImageData = instantiate(OmegaConf.to_container(config.data, resolve=True), _convert_="all")
    checkpoint, task, fabric = start(config, config.devices)
    with distributed.first_rank_first():
        if distributed.rank() == 0:
            metric.prepare()
            data.prepare_data()
    data.setup()
    protocol = evaluation.Protocol(n=config.n, seed=config.seed, chunk=min(config.chunk, config.n), ema=config.profile)
    against = evaluation.reference(metric, data, task.device)
    start_time = time.perf_counter()
    with Progress(console=Console(stderr=True), transient=True, disable=not fabric.is_global_zero) as bar:
        job = bar.add_task("sampling", total=config.n)
        values = evaluation.evaluate(
            task, metric, against, data, protocol, autocast=fabric.autocast, done=lambda n: bar.update(job, completed=n)
        )
    result = {
        "values": values,
        "protocol": {
            **evaluation.describe(task, metric, against, data, protocol),
            "precision": str(fabric._precision.precision),
        },
        "checkpoint": str(Path(config.checkpoint).expanduser().resolve()),
        "step": checkpoint["global_step"],
        "seconds": round(time.perf_counter() - start_time, 3),
    }
    if fabric.is_global_zero:
        path = Path(config.output_dir) / "evaluation.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        Console().print(table(result), f"written to {path}")


def table(result: dict) -> Table:
    """Value and protocol, a line each."""
    lines = Table(show_header=False, title=f"{result['checkpoint']}, step {result['step']:,}", title_justify="left")
    for name, value in result["values"].items():
        lines.add_row(f"[bold]{name}", f"[bold]{value:.4f}")
    for name, value in result["protocol"].items():
        lines.add_row(name, str(value))
    lines.add_row("seconds", f"{result['seconds']:.1f}")
    return lines
