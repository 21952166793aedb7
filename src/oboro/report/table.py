"""Numbers as they are printed and passed to a sweep."""

import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from oboro.evaluate.result import Result, protocol_line, warnings, with_spread
from oboro.metrics import Value


def number(value: float) -> str:
    """Four significant digits, without an exponent where that stays short."""
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.2e}"


def interval(value: Value) -> str:
    return "" if value.interval is None else f"{number(value.interval[0])} to {number(value.interval[1])}"


def print_results(results: list[Result], title: str) -> None:
    """The table of values on stdout, and below it warnings about them."""
    console = Console()
    console.print(values_table(results, title))
    for sentence in warnings(results[0]):
        console.print(f"[yellow]note:[/] {sentence}")


def write_result(folder: Path, numbers: Mapping[str, float]) -> None:
    """``folder/result.json``: what a sweep shows of this run; the first number is its objective."""
    objective = next(iter(numbers), None)
    (folder / "result.json").write_text(json.dumps({"values": dict(numbers), "objective": objective}, indent=2) + "\n")


def values_table(results: list[Result], title: str) -> Table:
    """A line for each number: value (mean, spread and minimum over several ranges of samples), real images, interval.

    The protocol stands below, in its short form; all ``results`` share it but for the range of samples.
    """
    first = results[0]
    several = len(results) > 1
    headings = ["mean", "std", "min", "max"] if several else ["value"]
    if not several and any(value.interval for value in first.values.values()):
        headings.append("95 %")
    caption = protocol_line(first.protocol)
    if several:
        caption += f"; {len(results)} such ranges of samples, one after the other"
    if splits := max((len(value.real_splits) for value in first.values.values()), default=0):
        caption += f"; real data: mean ± standard deviation over {splits} random splits"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("metric")
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column("real data", justify="right")
    for name, value in first.values.items():
        repeats = [result.values[name].value for result in results]
        columns = map(number, spread(repeats)) if several else [number(value.value), interval(value)][: len(headings)]
        real = "" if value.real is None else with_spread(value.real, value.real_std)
        if value.real is not None and value.real_n != first.protocol["samples"]:
            real += f" (n={value.real_n:,})"
        table.add_row(name, *columns, real)
    return table


def spread(values: list[float]) -> tuple[float, float, float, float]:
    """Mean, standard deviation (divisor k - 1), minimum and maximum of k values."""
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1) if len(values) > 1 else float("nan")
    return mean, variance**0.5, min(values), max(values)
