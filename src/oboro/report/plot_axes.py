"""Limits, ticks and labels of one pair of axes."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import ceil, floor, log10

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from oboro.report.benchmark import Number

MARGIN = 0.1  # on either side of the data, in their span: a label fits into it
TICKS = 7  # on an axis, about
APART = 0.12  # least distance of two ticks, in lengths of a logarithmic axis
LEAST_DECADES = 0.6  # of a logarithmic axis: a factor of four, in which there is a tick
LABELS = 5  # of one picture, or fewer
POINT = 5.5  # half the width of a point, in points


def fit_x(axes: Axes, x: Sequence[float], logarithmic: bool) -> None:
    """Limits and ticks for what lies at ``x``; a logarithmic axis needs positive ones and is linear for others."""
    if logarithmic and min(x) > 0:
        low, high = log10(min(x)), log10(max(x))
        more = max(MARGIN * (high - low), (LEAST_DECADES - (high - low)) / 2)
        axes.set_xscale("log")
        axes.set_xlim(10 ** (low - more), 10 ** (high + more))
        logarithmic_ticks(axes.xaxis, axes.get_xlim())
    else:
        axes.set_xlim(*padded(min(x), max(x)))
        linear_ticks(axes.xaxis, axes.get_xlim())


def fit_y(axes: Axes, numbers: Sequence[Number], real: float | None) -> bool:
    """Limits and ticks for numbers and their bars, logarithmic where they span more than a decade.

    Returns whether ``real`` lies inside: not where it would leave the numbers less than half of the axis.
    """
    values = [n.value for n in numbers]
    logarithmic = min(values) > 0 and max(values) > 10 * min(values)
    ends = [
        end for n in numbers for end in (n.value - (n.std or 0), n.value + (n.std or 0)) if end > 0 or not logarithmic
    ]
    scaled: Callable[[float], float] = log10 if logarithmic else float
    low, high = scaled(min(ends)), scaled(max(ends))
    inside = False
    if real is not None and (real > 0 or not logarithmic):
        at = scaled(real)
        wide = max(high, at) - min(low, at)
        inside = high == low or wide <= 2 * (high - low)
        low, high = (min(low, at), max(high, at)) if inside else (low, high)
    low, high = padded(low, high)
    if logarithmic:
        axes.set_yscale("log")
        axes.set_ylim(10**low, 10**high)
        logarithmic_ticks(axes.yaxis, axes.get_ylim())
    else:
        axes.set_ylim(low, high)
        linear_ticks(axes.yaxis, axes.get_ylim())
    return inside


def padded(low: float, high: float) -> tuple[float, float]:
    """With a margin, around a single value too."""
    more = MARGIN * (high - low) or 0.1 * abs(high) or 0.1
    return low - more, high + more


def logarithmic_ticks(axis: Axis, limits: tuple[float, float]) -> None:
    """At round numbers, at fewer of them the more decades there are, written without exponents."""
    decades = range(floor(log10(limits[0])), ceil(log10(limits[1])) + 1)
    for digits in ((1, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [d * 10.0**k for k in decades for d in digits if limits[0] <= d * 10.0**k <= limits[1]]
        apart = min((log10(b / a) for a, b in pairwise(ticks)), default=1.0)
        if len(ticks) <= TICKS and apart > APART * log10(limits[1] / limits[0]):
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))
    axis.set_minor_locator(NullLocator())


def linear_ticks(axis: Axis, limits: tuple[float, float]) -> None:
    """At round numbers, all with the same number of decimals."""
    ticks = [
        tick for tick in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(*limits) if limits[0] <= tick <= limits[1]
    ]
    decimals = max(len(plain_number(tick).partition(".")[2]) for tick in ticks)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.{decimals}f}"))


def plain_number(value: float) -> str:
    """``20,000`` and ``0.0005``: never an exponent."""
    return f"{value:,.10f}".rstrip("0").rstrip(".")


def place_labels(axes: Axes, labels: Sequence[tuple[float, float, str]], above: bool, size: float) -> None:
    """Texts beside points (x, y), the outer ones first, each where it covers nothing or else nowhere.

    The axes must have their final place in the figure (``Figure.draw_without_rendering``).
    The side beyond a Pareto front is empty: ``above`` it where larger values are better, below it otherwise.
    """
    reach = POINT * axes.figure.dpi / 72
    points = [line.get_xydata() for line in axes.lines if line.get_marker() != "None"]
    taken = [Bbox.from_extents(*(at - reach), *(at + reach)) for xy in points for at in axes.transData.transform(xy)]
    joined = [line for line in axes.lines if line.get_linestyle() != "None"]
    paths = [line.get_transform().transform_path(line.get_path()) for line in joined]
    paths += [axes.transData.transform_path(bar) for bars in axes.collections for bar in bars.get_paths()]
    placed = 0
    for x, y, words in dict.fromkeys([*labels[-1:], *labels[:1], *labels]):
        if placed == LABELS:
            break
        for note in candidates(axes, (x, y), words, above, size):
            box = note.get_window_extent()
            free = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            free = free and axes.bbox.containsy(box.y0) and axes.bbox.containsy(box.y1)
            if free and not box.count_overlaps(taken) and not any(p.intersects_bbox(box, False) for p in paths):
                taken.append(box)
                placed += 1
                break
            note.remove()


def candidates(axes: Axes, at: tuple[float, float], words: str, above: bool, size: float) -> Iterator[Annotation]:
    """The text at one place around the point after the other."""
    side, vertical, beyond = (1, "bottom", "top") if above else (-1, "top", "bottom")
    for dx, dy, ha, va in (
        (0, 8 * side, "center", vertical),
        (-6, 6 * side, "right", vertical),
        (6, 6 * side, "left", vertical),
        (-10, 0, "right", "center"),
        (10, 0, "left", "center"),
        (0, -8 * side, "center", beyond),
        (-6, -6 * side, "right", beyond),
        (6, -6 * side, "left", beyond),
    ):
        style = {"textcoords": "offset points", "ha": ha, "va": va, "fontsize": size, "color": "0.1", "zorder": 5}
        note = axes.annotate(words, at, (dx, dy), **style)
        note.set_in_layout(False)
        yield note
