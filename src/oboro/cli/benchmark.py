"""What ``python evaluate.py -m ...`` makes of its results."""

from pathlib import Path

from rich.console import Console

from oboro.report.benchmark_table import benchmark_table, write
from oboro.report.collect import collect
from oboro.report.curve import curve_figure, has_curve
from oboro.report.pareto_plot import benchmark_figure
from oboro.report.strip import strip_image


def benchmark(sweep_dir: Path) -> None:
    """Print the table; ``benchmark.csv``, ``benchmark.json``, ``pareto.png`` and ``strip.png`` go to ``sweep_dir``, and
    ``curve.png`` where several models were drawn at several numbers of evaluations."""
    results = collect(sweep_dir)
    write(results, sweep_dir)
    benchmark_figure(results).savefig(sweep_dir / "pareto.png", dpi=150)
    strip_image(results).save(sweep_dir / "strip.png")
    names = ["benchmark.csv", "benchmark.json", "pareto.png", "strip.png"]
    if has_curve(results):
        curve_figure(results).savefig(sweep_dir / "curve.png", dpi=150)
        names.append("curve.png")
    console = Console()
    console.print(benchmark_table(results, width=console.width))
    print(f"written to {sweep_dir}: {', '.join(names)}")
