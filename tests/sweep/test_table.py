"""Everything that is known is readable, on a narrow terminal too."""

import io
import re

import pytest
from rich.console import Console

from oboro.sweep import Job, Options, Sweep
from oboro.sweep.table import table

VALUES = {
    "val/loss": 0.2328,
    "fd_fashion_2000": 4.6521,
    "precision_2000": 0.75,
    "recall_2000": 0.5,
    "density_2000": 1.25,
}


def printed(sweep, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(table(sweep, width))
    return console.file.getvalue()


@pytest.fixture
def sweep(tmp_path):
    varied = ["optimizer.lr=0.00172837642831234", "schedule=linear", "seed=0"]
    done = Job(0, varied, varied, "0", "done", None, 4321.0, VALUES, "fd_fashion_2000")
    killed = Job(1, varied, varied, "1", "killed by SIGKILL", "torch.OutOfMemoryError: CUDA out of memory.", 3.21)
    return Sweep(tmp_path, [], str(tmp_path), [], Options(), [done, killed])


@pytest.mark.parametrize("width", [80, 120, 200])
def test_nothing_is_cut(sweep, width):
    text = printed(sweep, width)
    assert "…" not in text and all(len(line) <= width for line in text.splitlines())
    words = re.split(r"[\s│┃]+", text)
    for name, value in VALUES.items():
        assert name in words and f"{value:.4g}" in words
    for word in ("optimizer.lr=0.001728", "schedule=linear", "seed=0", "4321.0", "3.2", "killed", "SIGKILL"):
        assert word in words
    assert "torch.OutOfMemoryError: CUDA out of memory." in text and "/<job>" in text


def test_a_sweep_without_metrics_fits_anywhere(sweep):
    for job in sweep.jobs:
        job.values, job.objective = {}, None
    assert "SIGKILL" in printed(sweep, 45)


def test_the_objective_is_the_first_metric(sweep):
    header = printed(sweep, 200).splitlines()[1]
    assert re.findall(r"[\w/]+", header) == [
        *["job", "varied", "status"],
        *["fd_fashion_2000", "val/loss", "precision_2000", "recall_2000", "density_2000"],
        "seconds",
    ]


def test_folders_are_named_where_they_are_not_numbers(sweep):
    sweep.jobs[1].path = "seed=0"
    text = printed(sweep, 120)
    assert "folder " in text and "/<folder>" in text
