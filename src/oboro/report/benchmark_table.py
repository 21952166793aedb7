"""A benchmark as text: the table that is printed, CSV and JSON."""

import csv
import re
from collections.abc import Iterator, Sequence
from math import floor, isfinite, log10
from pathlib import Path
from typing import NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from oboro.base.json_text import json_text
from oboro.base.spreadsheet import as_text
from oboro.evaluate.protocol import measurement
from oboro.evaluate.result import protocol_line
from oboro.report.benchmark import PARTS, Benchmark, Column, Number, Row, Setting, numeric, varying

WIDTH = 100  # characters of a line
FOLD = 16  # characters after which the name of a number goes on in the next line
WIDEST = 28  # characters of a setting


class Cells(NamedTuple):
    """One column of text: its heading, a cell for each row, one for real images, which rows are the best, and a cell
    for each baseline."""

    heading: str
    texts: list[str]
    real: str = ""
    best: frozenset[int] = frozenset()
    right: bool = True
    beside: Sequence[str] = ()

    @property
    def width(self) -> int:
        """Characters with the gap of two after it."""
        lines = (line for text in (self.heading, self.real, *self.texts, *self.beside) for line in text.split("\n"))
        return 2 + min(max(map(len, lines)), WIDEST)


def benchmark_table(benchmark: Benchmark, quality: str | None = None, width: int = WIDTH) -> Group:
    """One line a job, those of fewest evaluations first; numbers that do not fit into ``width`` go into a second table.

    Baselines stand below the jobs. The best of each column is bold. A star marks the Pareto front of evaluations and
    ``quality``, by default the first column. What all rows share stands once above, the protocol below.
    """
    column = benchmark.column(quality)
    ending = shared_ending(list(benchmark.columns.values()))
    left = left_cells(benchmark, column)
    room = width - sum(cells.width for cells in left)
    blocks: list[list[Cells]] = [[]]
    for one in benchmark.columns.values():
        cells = number_cells(benchmark, one, folded(one.name.replace(ending, "", 1)))
        if blocks[-1] and sum(c.width for c in blocks[-1]) + cells.width > room:
            blocks.append([])
        blocks[-1].append(cells)
    parts: list[Text | Table | str] = []
    if shared := shared_settings(benchmark.rows):
        parts.append(Text(f"all rows: {shared}"))
    for block in blocks:
        parts += ["", one_table([*left, *block], len(benchmark.rows))]
    return Group(*parts, "", *(Text(sentence) for sentence in footnotes(benchmark, column, ending)))


def one_table(columns: Sequence[Cells], rows: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for cells in columns:
        table.add_column(
            Text(cells.heading), justify="right" if cells.right else "left", max_width=WIDEST, overflow="fold"
        )
    for i in range(rows):
        table.add_row(*(Text(cells.texts[i], style="bold" * (i in cells.best)) for cells in columns))
    for i in range(max(len(cells.beside) for cells in columns)):
        table.add_row(*(Text(cells.beside[i] if cells.beside else "") for cells in columns))
    if any(cells.real for cells in columns[1:]):
        table.add_row(*(Text(cells.real, style="dim") for cells in columns))
    return table


def footnotes(benchmark: Benchmark, column: Column, ending: str) -> Iterator[str]:
    """What the reader of the table needs to know."""
    if ending:
        yield f"Headings leave {ending} out."
    if front_rows(benchmark, column):
        yield f"* Pareto front of {column.name} against evaluations per sample (evals)."
    if any(one.real is not None for one in benchmark.columns.values()):
        yield "real: what real data score that were held back from the reference."
    yield f"{column.name}: {column_protocol(benchmark.rows_with(column) or benchmark.rows, column)}."
    yield from (f"note: {note}" for note in benchmark.notes)


def column_protocol(rows: Sequence[Row], column: Column) -> str:
    """The protocol of a column in one line, where "as shown" stands for what differs among ``rows``."""
    differ = {"ema" if name == "ema_std" else whole(name) for name in varying(rows)}
    shown = {name: f"{name} as shown" for name in PARTS if name in differ}
    if "ema" in differ:
        shown["ema"] = "as shown"
    if "images" in differ:
        shown["images"] = "files as shown"
    return protocol_line(column.protocol, shown)


def shared_settings(rows: Sequence[Row], parts: int = 0) -> str:
    """What all rows share and the line of the protocol does not have; of a path its last ``parts``, 0 for all of it."""
    differ = varying(rows)
    texts = []
    if {row.checkpoint for row in rows} == {""}:
        return ""
    if len({row.checkpoint for row in rows}) == 1:
        texts.append(f"checkpoint {Path(*Path(rows[0].checkpoint).parts[-parts:])}")
    elif "run" not in differ:
        texts.append(f"run {Path(*Path(rows[0].checkpoint).parent.parts[-parts:])}")
    if "step" not in differ:
        texts.append(phrase("step", rows[0].settings["step"]))
    parts = dict.fromkeys(k for row in rows for k in row.settings if whole(k) in PARTS)
    for name in (k for k in parts if k not in differ and whole(k) in map(whole, differ)):
        having = [row.settings for row in rows if row.settings.get(name) is not None]
        owners = dict.fromkeys(str(settings[whole(name)]) for settings in having) if len(having) < len(rows) else {}
        texts.append(" ".join(["/".join(owners), phrase(name, having[0][name])]).strip())
    if len({row.evaluations for row in rows}) == 1:
        texts.append(f"{text(rows[0].evaluations)} evaluations per sample")
    return ", ".join(texts)


def whole(name: str) -> str:
    """The setting that another is a part of, ``sampler`` of ``sampler.steps``."""
    return name.partition(".")[0]


def heading(name: str) -> str:
    return {"ema": "EMA", "ema_std": "EMA std"}.get(name, name.rpartition(".")[2])


def text(value: Setting) -> str:
    """Numbers without superfluous digits, thousands apart; nothing where there is no value."""
    if not numeric(value):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def phrase(name: str, value: Setting) -> str:
    """A setting in a sentence: ``10 steps``, ``scale 2``, ``DDIM``."""
    if name == "sampler.steps":
        return f"{text(value)} steps"
    return text(value) if name in (*PARTS, "run", "file", "images") else f"{heading(name)} {text(value)}"


def setting_cells(rows: Sequence[Row]) -> list[Cells]:
    """What tells rows apart, and their evaluations where these differ."""
    columns = [(heading(k), [row.settings.get(k) for row in rows]) for k in varying(rows)]
    if len({row.evaluations for row in rows}) > 1:
        columns.append(("evals", [row.evaluations for row in rows]))
    return [
        Cells(head, [text(v) for v in values], right=all(v is None or numeric(v) for v in values))
        for head, values in columns
    ]


def left_cells(benchmark: Benchmark, column: Column) -> list[Cells]:
    front = front_rows(benchmark, column)
    stars = [Cells("", ["*" if row in front else "" for row in benchmark.rows])] if front else []
    real = "real" * any(one.real is not None for one in benchmark.columns.values())
    beside = [row.settings["baseline"] for row in benchmark.baselines]
    jobs = Cells("job", [row.folder.name for row in benchmark.rows], real, beside=beside)
    digits = decimals([row.seconds for row in benchmark.rows])
    seconds = Cells("s/sample", [f"{row.seconds:.{digits}f}" for row in benchmark.rows])
    return [*stars, jobs, *setting_cells(benchmark.rows), seconds]


def front_rows(benchmark: Benchmark, column: Column) -> list[Row]:
    """The Pareto front, unless there is nothing to weigh."""
    return benchmark.front(column) if len({row.evaluations for row in benchmark.rows_with(column)}) > 1 else []


def number_cells(benchmark: Benchmark, column: Column, head: str) -> Cells:
    best = benchmark.best(column)
    numbers = [row.numbers.get(column.name) for row in benchmark.rows]
    bold = frozenset(i for i, row in enumerate(benchmark.rows) if row in best and len(benchmark.rows) > 1)
    digits = decimals([one.value for one in numbers if one is not None])
    real = "" if column.real is None else f"{column.real:,.{digits}f}"
    texts, beside = (
        ["" if one is None else with_spread(one, digits) for one in ones]
        for ones in (numbers, [row.numbers.get(column.name) for row in benchmark.baselines])
    )
    return Cells(head, texts, real, bold, beside=beside)


def decimals(values: Sequence[float]) -> int:
    """So many that the middle one of ``values`` has four significant digits; all below each other have them."""
    sizes = sorted(abs(v) for v in values if v and isfinite(v))
    return min(max(3 - floor(log10(sizes[len(sizes) // 2])), 0), 9) if sizes else 0


def with_spread(result: Number, digits: int) -> str:
    """``4.652 ± 0.051``."""
    return " ± ".join(f"{x:,.{digits}f}" for x in result if x is not None)


def shared_ending(columns: Sequence[Column]) -> str:
    """``_fashion_2000`` of several metrics of one extractor and number of images, for headings to do without it."""
    protocols = [one.protocol for one in columns if "extractor" in one.protocol]  # paired metrics do without
    endings = dict.fromkeys(f"_{one['extractor']}_{one['samples']}" for one in protocols)
    metrics = dict.fromkeys(one.metric for one in columns)
    common = [ending for ending in endings if sum(metric.endswith(ending) for metric in metrics) > 1]
    return common[0] if len(common) == 1 else ""


def folded(name: str) -> str:
    """A name in lines of about ``FOLD`` characters, broken after ``_``, and always before ``@``."""
    lines = [""]
    for part in re.findall(r"@?[^_@]*_?", name):
        if lines[-1] and (part.startswith("@") or len(lines[-1] + part) > FOLD):
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def write(benchmark: Benchmark, folder: Path) -> None:
    """``benchmark.csv``, one line a job, and ``benchmark.json`` with the measurement of every column and the notes too.

    Numbers are written in full: reading them gives the same bits. An empty field of the CSV is an unknown, and what a
    spreadsheet would take for a formula begins with an apostrophe there.
    """
    rows = [row.plain() for row in benchmark.rows]
    names = [name for column in benchmark.columns for name in (column, f"{column}_std")]
    present = dict.fromkeys(name for row in rows for name in row)
    header = [k for k in present if k not in names] + [k for k in names if k in present]
    with (folder / "benchmark.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for row in (header, *([row.get(name, "") for name in header] for row in rows)):
            writer.writerow(map(as_text, row))
    columns = {
        name: {**vars(column), "protocol": measurement(column.protocol)} for name, column in benchmark.columns.items()
    }
    content = {"columns": columns, "rows": rows, "notes": list(benchmark.notes)}
    if benchmark.baselines:
        content["baselines"] = [row.plain() for row in benchmark.baselines]
    (folder / "benchmark.json").write_text(json_text(content, indent=2) + "\n")
