"""What ``python evaluate.py -m ...`` makes of its jobs."""

from pathlib import Path

from rich.console import Console

from oboro.report.benchmark import collect
from oboro.report.benchmark_table import benchmark_table, write
from oboro.report.plot import benchmark_figure
from oboro.report.strip import strip_image


def benchmark(sweep_dir: Path) -> None:
    """Print the table; ``benchmark.csv``, ``benchmark.json``, ``pareto.png`` and ``strip.png`` go to ``sweep_dir``."""
    found = collect(sweep_dir)
    write(found, sweep_dir)
    benchmark_figure(found).savefig(sweep_dir / "pareto.png", dpi=150)
    strip_image(found).save(sweep_dir / "strip.png")
    console = Console()
    console.print(benchmark_table(found, width=console.width))
    print(f"written to {sweep_dir}: benchmark.csv, benchmark.json, pareto.png, strip.png")
