"""Pictures of a benchmark: quality against cost, or against the one number that was varied."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from oboro.base.errors import UserError
from oboro.report.benchmark import Benchmark, Column, Row, natural, numeric, varying
from oboro.report.benchmark_table import column_protocol, heading, phrase, shared_settings, text
from oboro.report.plot_axes import fit_x, fit_y, place_labels
from oboro.report.table import number

# Okabe and Ito 2008, without yellow, which is faint on white. Numbers of colours and of markers share no factor.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
FILLS = (("full", "-"), ("none", (0, (4, 1.5))), ("left", (0, (1, 1.2))), ("bottom", (0, (6, 1.5, 1, 1.5))))
REAL = {"color": "0.45", "linestyle": (0, (5, 3)), "linewidth": 1.1, "zorder": 1}
FONT = 9  # points
LEGEND = 24  # characters of a line of the legend
CHARACTERS = 16  # of the caption to an inch

Of = Callable[[Row], float]


@dataclass(frozen=True)
class Series:
    """Rows that are joined by a line: they share what colour and marker, and what filling and dashes stand for."""

    hue: str
    filling: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what runs along x, and the points that are ringed."""

    axes: Axes
    title: str
    x: Of
    ringed: Sequence[Row]


def plain(name: str) -> str:
    """A text of others, in which a dollar begins no formula."""
    return name.replace("$", r"\$")


def benchmark_figure(benchmark: Benchmark, quality: str | None = None) -> Figure:
    """``quality``, by default the first column, against network evaluations and against seconds per sample.

    The Pareto front of each cost is a step line through ringed points. Where one number alone was varied (the length
    of the average, the training step, a scale), or several at equal evaluations, quality is drawn against that number,
    with a ring around the best point. Raises ``UserError`` for a name that no column has, or without a finite number.
    """
    column = benchmark.column(quality)
    rows = benchmark.rows_with(column)
    if not rows:
        raise UserError(f"{column.name} is not finite in any job; choose another of {', '.join(benchmark.columns)}.")
    against = single_axis(rows)
    series = series_of(rows, against)
    figure = Figure(figsize=(7.4, 4.6) if against else (10, 4.8), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.03)
    panels = panels_of(figure, benchmark, column, against)
    for panel in panels:
        draw(panel, series, column, steps=not against)
        fit_x(panel.axes, [panel.x(row) for row in rows], logarithmic=not against)
    real_drawn = fit_y(panels[0].axes, [row.numbers[column.name] for row in rows], column.real)
    for panel in panels:
        if real_drawn:
            panel.axes.axhline(column.real, **REAL)
    panels[0].axes.set_ylabel(plain(column.name), fontsize=FONT)
    handles = legend_handles(series, column, real_drawn, panels[0].ringed, not against)
    lines = sum(1 + handle.get_label().count("\n") for handle in handles)
    figure.set_figheight(max(figure.get_figheight(), (lines + 0.6 * len(handles)) * FONT / 72 + 1.5))
    style = {"fontsize": FONT, "frameon": False, "handlelength": 3, "borderaxespad": 0}
    panels[-1].axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.04, 1), **style)
    write_around(figure, rows, column, len(benchmark.rows) - len(rows))
    figure.draw_without_rendering()
    for panel in panels:
        labels = [
            (panel.x(row), row.numbers[column.name].value, label(row, rows, column, against)) for row in panel.ringed
        ]
        place_labels(panel.axes, labels, above=column.better > 0, size=FONT - 0.5)
    return figure


def panels_of(figure: Figure, benchmark: Benchmark, column: Column, against: str | None) -> list[Panel]:
    if against:
        title = {"ema_std": "EMA std, as a share of training", "step": "training step"}.get(against, heading(against))
        return [Panel(figure.subplots(), title, lambda row: float(row.settings[against]), benchmark.best(column))]
    costs: dict[str, Of] = {"network evaluations": lambda row: row.evaluations, "seconds": lambda row: row.seconds}
    axes = figure.subplots(1, 2, sharey=True)
    return [
        Panel(one, f"{name} per sample", cost, benchmark.front(column, cost) if len(benchmark.rows) > 1 else [])
        for one, (name, cost) in zip(axes, costs.items(), strict=True)
    ]


def single_axis(rows: Sequence[Row]) -> str | None:
    """The numeric setting that rows are compared over, if it is not their cost."""
    differ = varying(rows)
    equal_cost = len({row.evaluations for row in rows}) == 1
    for name in (k for k in dict.fromkeys(["ema_std", "step", *differ]) if k in differ and k != "sampler.steps"):
        numbers = all(numeric(row.settings.get(name)) for row in rows)
        if numbers and (equal_cost or differ == [name]) and any(len(s.rows) > 1 for s in series_of(rows, name)):
            return name
    return None


def series_of(rows: Sequence[Row], against: str | None) -> list[Series]:
    """Rows that differ in the number of steps alone, or in ``against`` alone, in the order in which they are joined."""
    names = [k for k in varying(rows) if k != (against or "sampler.steps")]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: [natural(row.settings.get(k)) for k in names]):
        hue, filling = (
            ", ".join(phrase(k, row.settings[k]) for k in part if row.settings.get(k) is not None)
            for part in ([k for k in names if not k.startswith("guidance")], [k for k in names if k.startswith("guid")])
        )
        groups.setdefault((hue, filling), []).append(row)
    hues, fillings = ({pair[i] for pair in groups} for i in (0, 1))
    order: Of = (lambda row: row.settings[against]) if against else (lambda row: row.evaluations)
    series = [Series(*pair, sorted(group, key=order)) for pair, group in groups.items()]
    if len(series) < 2:
        return [Series(str(s.rows[0].settings["sampler"]), "", s.rows) for s in series]
    if len(fillings) > 1 and (len(hues) == 1 or len(fillings) > len(FILLS) >= len(hues)):
        return [Series(s.filling, s.hue, s.rows) for s in series]
    if len(fillings) > len(FILLS):
        return [Series(f"{s.hue}, {s.filling}", "", s.rows) for s in series]
    return series


def styles(series: Sequence[Series]) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers of the hues and of the fillings, in their order."""
    hues, fillings = dict.fromkeys(s.hue for s in series), dict.fromkeys(s.filling for s in series)
    return {hue: i for i, hue in enumerate(hues)}, {filling: i for i, filling in enumerate(fillings)}


def marked_line(x: Sequence[float], y: Sequence[float], style: tuple[int | None, int], name: str) -> Line2D:
    """Points and line in the style of (hue, filling); without a hue they are grey."""
    hue, filling = style
    shape, dashes = FILLS[filling]
    return Line2D(
        x,
        y,
        color="0.35" if hue is None else COLOURS[hue % len(COLOURS)],
        marker="o" if hue is None else MARKERS[hue % len(MARKERS)],
        fillstyle=shape,
        markerfacecoloralt="white",
        markersize=6,
        markeredgewidth=1.2,
        linestyle=dashes,
        linewidth=1.3,
        label=plain(name),
        zorder=3,
    )


def rings(x: Sequence[float], y: Sequence[float], name: str, line: str = "none") -> Line2D:
    style = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "linewidth": 0.9, "zorder": 4}
    return Line2D(x, y, color="0.15", linestyle=line, label=plain(name), **style)


def draw(panel: Panel, series: Sequence[Series], column: Column, steps: bool) -> None:
    """The lines of all series, error bars where samples were drawn several times, rings and the steps of the front."""
    hues, fillings = styles(series)
    for one in series:
        x, numbers = [panel.x(row) for row in one.rows], [row.numbers[column.name] for row in one.rows]
        y, name = [n.value for n in numbers], ", ".join(filter(None, (one.hue, one.filling)))
        line = panel.axes.add_line(marked_line(x, y, (hues[one.hue], fillings[one.filling]), name))
        if any(n.std for n in numbers):
            style = {"ecolor": line.get_color(), "elinewidth": 1, "capsize": 2.5, "zorder": 2}
            panel.axes.errorbar(x, y, [n.std or 0.0 for n in numbers], fmt="none", **style)
    x, y = [panel.x(row) for row in panel.ringed], [row.numbers[column.name].value for row in panel.ringed]
    panel.axes.add_line(rings(x, y, "ringed"))
    if steps and x:
        ends = [*x[1:], max(panel.x(row) for one in series for row in one.rows)]
        corners = [(at, v) for start, end, v in zip(x, ends, y, strict=True) for at in (start, end)]
        panel.axes.add_line(Line2D(*zip(*corners, strict=True), color="0.15", linewidth=0.9, zorder=1, label="front"))
    panel.axes.set_xlabel(panel.title, fontsize=FONT)
    panel.axes.tick_params(labelsize=FONT)
    panel.axes.grid(color="0.92", linewidth=0.7)
    panel.axes.set_axisbelow(True)
    panel.axes.spines[["top", "right"]].set_visible(False)


def legend_handles(
    series: Sequence[Series], column: Column, real_drawn: bool, ringed: Sequence[Row], steps: bool
) -> list[Line2D]:
    """An entry for every hue, every filling, the rings and real images; none for what all points have in common."""
    hues, fillings = styles(series)
    handles = [marked_line([], [], (hue, 0), fill(name, LEGEND)) for name, hue in hues.items() if len(hues) > 1]
    handles += [
        marked_line([], [], (None, style), fill(name, LEGEND)) for name, style in fillings.items() if len(fillings) > 1
    ]
    if ringed:
        handles.append(rings([], [], "Pareto front", "-") if steps else rings([], [], "best"))
    if column.real is not None:
        name = f"real data, {number(column.real)}" + "\n(outside the picture)" * (not real_drawn)
        handles.append(Line2D([], [], label=name, **(REAL if real_drawn else {"linestyle": "none"})))
    return handles


def write_around(figure: Figure, rows: Sequence[Row], column: Column, left_out: int) -> None:
    """The title, and below the panels what the numbers rest on."""
    direction = {-1: " (lower is better)", 0: "", 1: " (higher is better)"}[column.better]
    title = f"{column.name} of {column.protocol['samples']:,} samples{direction}"
    figure.suptitle(title, x=0.012, ha="left", fontsize=FONT + 2)
    sentences = [", ".join(filter(None, (shared_settings(rows, parts=3), column_protocol(rows, column))))]
    if any(row.numbers[column.name].std is not None for row in rows):
        sentences.append("Bars: one standard deviation over several ranges of samples.")
    if left_out:
        sentences.append(f"{left_out} jobs without this number are not drawn.")
    caption = fill(". ".join(sentences), round(figure.get_figwidth() * CHARACTERS))
    figure.supxlabel(caption, x=0.012, ha="left", fontsize=FONT - 1, color="0.3")


def label(row: Row, rows: Sequence[Row], column: Column, against: str | None) -> str:
    """What a ringed point is: its number of steps, its value at the best place, or else what tells it from others."""
    if against:
        return f"{number(row.numbers[column.name].value)} at {text(row.settings[against])}"
    names = varying(rows)
    names = ["sampler.steps"] if "sampler.steps" in names else names
    return ", ".join(phrase(name, row.settings[name]) for name in names if row.settings.get(name) is not None)
