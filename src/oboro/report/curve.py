"""Few steps in one picture: what each model scores at each number of evaluations, and what its training has cost."""

from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from oboro.report.benchmark import Benchmark, Column, Row
from oboro.report.pareto_plot import FONT, REAL, marked_line, plain
from oboro.report.plot_axes import fit_x, fit_y

COSTS = {"network evaluations per sample": "evaluations", "network evaluations in training": "training_evaluations"}


def model_of(row: Row) -> tuple[str, int | None]:
    """A checkpoint: its run and its step."""
    step = row.settings.get("step")
    return str(row.settings.get("run") or row.checkpoint), step if isinstance(step, int) else None


def best_at_each(rows: Sequence[Row], column: Column) -> dict[str, list[Row]]:
    """By model, the best row at each number of evaluations, fewest first: of a teacher that is its best solver."""
    found: dict[str, dict[float, Row]] = {}
    several = len({model_of(row)[1] for row in rows}) > 1
    for row in rows:
        run, step = model_of(row)
        at = found.setdefault(f"{run}, step {step}" if several and step is not None else run, {})
        other = at.get(row.evaluations)
        values = [-column.better * r.numbers[column.name].value for r in (row, other) if r is not None]
        if other is None or values[0] < values[1]:
            at[row.evaluations] = row
    return {name: [at[e] for e in sorted(at)] for name, at in found.items()}


def shown(benchmark: Benchmark) -> list[Column]:
    """The first column that has a better and a worse, and the first recall."""
    columns = [c for c in benchmark.columns.values() if c.better and benchmark.rows_with(c)]
    return columns[:1] + [c for c in columns[1:] if c.metric.startswith("recall")][:1]


def has_curve(benchmark: Benchmark) -> bool:
    """Whether there are several models and several numbers of evaluations."""
    rows = [row for row in benchmark.rows if row.evaluations > 0]
    return bool(shown(benchmark)) and all(
        len(set(values)) > 1 for values in (map(model_of, rows), (row.evaluations for row in rows))
    )


def curve_figure(benchmark: Benchmark) -> Figure:
    """A line for each model through its best value at each number of evaluations, against these and against all
    network evaluations of its training (``training_evaluations``, those of the model it began from included); a row of
    panels for the first number and one for recall."""
    columns = shown(benchmark)
    figure = Figure(figsize=(10, 0.6 + 3.6 * len(columns)), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(columns), len(COSTS), squeeze=False, sharey="row")
    for column, row_of_axes in zip(columns, panels, strict=True):
        lines = best_at_each([row for row in benchmark.rows_with(column) if row.evaluations > 0], column)
        for axes, (title, cost) in zip(row_of_axes, COSTS.items(), strict=True):
            drawn = []
            for hue, (name, rows) in enumerate(lines.items()):
                known = [row for row in rows if getattr(row, cost) is not None]
                x, y = ([getattr(row, cost) for row in known], [row.numbers[column.name].value for row in known])
                axes.add_line(marked_line(x, y, (hue, 0), name))
                drawn += x
                if cost == "training_evaluations":
                    for at, value, row in zip(x, y, known, strict=True):
                        axes.annotate(
                            f"{row.evaluations:g}", (at, value), (5, -3), textcoords="offset points", fontsize=FONT - 2
                        )
            if drawn:
                fit_x(axes, drawn, logarithmic=True)
            axes.set_xlabel(title, fontsize=FONT)
            axes.tick_params(labelsize=FONT)
            axes.grid(color="0.92", linewidth=0.7)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        numbers = [row.numbers[column.name] for rows in lines.values() for row in rows]
        if fit_y(row_of_axes[0], numbers, column.real):
            for axes in row_of_axes:
                axes.axhline(column.real, **REAL)
        row_of_axes[0].set_ylabel(plain(column.name), fontsize=FONT)
    panels[0][0].legend(fontsize=FONT, frameon=False)
    return figure
