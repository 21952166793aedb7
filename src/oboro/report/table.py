"""Numbers as they are printed and passed to a sweep."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oboro.base.json_text import json_text
from oboro.evaluate.result import Result, protocol_line, warnings, with_spread
from oboro.metrics import Value

WIDE = 500  # characters of a table that goes to a file or another program


def number(value: float) -> str:
    """Four significant digits, without an exponent where that stays short."""
    return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.2e}"


def interval(value: Value) -> str:
    return "" if value.interval is None else f"{number(value.interval[0])} to {number(value.interval[1])}"


def print_results(results: list[Result], title: str) -> None:
    """The title, the table of values, their protocol in its short form, and warnings about them, on stdout.

    Lines of text are as long as they are: a path that is broken cannot be copied.
    """
    console = Console()
    console.print(title, markup=False, highlight=False, soft_wrap=True, style="italic")
    wide = None if console.is_terminal else WIDE
    console.print(values_table(results), width=wide)
    caption = protocol_line(results[0].protocol)
    if len(results) > 1:
        caption += f"; {len(results)} such ranges of samples, one after the other"
    splits = {len(value.real_splits) for value in results[0].values.values()} - {0}
    if splits:
        counts = " or ".join(map(str, sorted(splits)))
        caption += f"; real data: mean ± standard deviation over {counts} random splits"
    console.print(caption, markup=False, highlight=False, soft_wrap=True, style="dim italic")
    for line in gain_lines(results[0]) if len(results) == 1 else ():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for sentence in warnings(results[0]):
        console.print("[yellow]note:[/] " + escape(sentence), soft_wrap=True)


def write_result(folder: Path, numbers: Mapping[str, float]) -> None:
    """``folder/result.json``: what a sweep shows of this run; the first number is its objective."""
    objective = next(iter(numbers), None)
    (folder / "result.json").write_text(json_text({"values": dict(numbers), "objective": objective}, indent=2) + "\n")


def values_table(results: list[Result]) -> Table:
    """A line for each number: value (mean, spread and minimum over several ranges of samples), interval, the same of
    each baseline, real images.

    All ``results`` share a protocol but for the range of samples.
    """
    first = results[0]
    several = len(results) > 1
    headings = ["mean", "std", "min", "max"] if several else ["value"]
    if not several and any(value.interval for value in first.values.values()):
        headings.append("95 %")
    table = Table()
    table.add_column("metric")
    for heading in headings:
        table.add_column(heading, justify="right")
    for baseline in first.baselines:
        table.add_column(baseline, justify="right")
    table.add_column("real data", justify="right")
    for name, value in first.values.items():
        repeats = [result.values[name].value for result in results]
        columns = map(number, spread(repeats)) if several else [number(value.value), interval(value)][: len(headings)]
        real = "" if value.real is None else with_spread(value.real, value.real_std)
        if value.real is not None and value.real_n != first.protocol["samples"]:
            real += f" (n={value.real_n:,})"
        beside = (
            [result.baselines[baseline][name].value for result in results if name in result.baselines[baseline]]
            for baseline in first.baselines
        )
        baselines = (number(spread(values)[0]) if values else "" for values in beside)
        table.add_row(name, *columns, *baselines, real)
    return table


def gain_lines(result: Result) -> list[str]:
    """``above copy: psnr_500 2.31 (1.9 to 2.7)``: how far the samples are above each baseline, and its 95 %
    interval over pictures that both have in common."""
    lines = []
    for baseline, values in result.baselines.items():
        gains = {name: value.detail["gain"] for name, value in values.items() if "gain" in value.detail}
        texts = [
            f"{name} {number(gain['value'])}"
            + (f" ({number(gain['interval'][0])} to {number(gain['interval'][1])})" if "interval" in gain else "")
            for name, gain in gains.items()
        ]
        if texts:
            lines.append(f"samples above {baseline}: {', '.join(texts)}")
    return lines


def spread(values: list[float]) -> tuple[float, float, float, float]:
    """Mean, standard deviation (divisor k - 1), minimum and maximum of k values."""
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1) if len(values) > 1 else float("nan")
    return mean, variance**0.5, min(values), max(values)
