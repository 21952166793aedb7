"""What ``python evaluate.py -m ...`` makes of its results."""

from pathlib import Path

from rich.console import Console

from oboro.report.benchmark_table import benchmark_table, write
from oboro.report.collect import collect
from oboro.report.pareto_plot import benchmark_figure
from oboro.report.strip import strip_image


def benchmark(sweep_dir: Path) -> None:
    """Print the table; ``benchmark.csv``, ``benchmark.json``, ``pareto.png`` and ``strip.png`` go to ``sweep_dir``."""
    results = collect(sweep_dir)
    write(results, sweep_dir)
    benchmark_figure(results).savefig(sweep_dir / "pareto.png", dpi=150)
    strip_image(results).save(sweep_dir / "strip.png")
    console = Console()
    console.print(benchmark_table(results, width=console.width))
    print(f"written to {sweep_dir}: benchmark.csv, benchmark.json, pareto.png, strip.png")
