"""Two numbers of a sweep against each other, a line for each value of one setting: the front of docs/instructions.md.

    python evaluate.py -m checkpoint=PATH guidance.scales.image=1,1.5,2.5,4 guidance.scales.text=1,2,4,7.5 ...
    python benchmarks/front_plot.py SWEEP scales.image scales.text accuracy psnr front.png

A line has the runs of one ``scales.image``, from the smallest ``scales.text`` to the largest, which stands beside its
points. Names may be the ends of names.
"""

import sys
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

from oboro.report.collect import collect

Point = tuple[float, float, str]


def front(lines: dict[str, list[Point]], across: str, up: str, of: str, beside: str) -> Figure:
    """``lines`` by what they are called; of each point the two numbers and what stands beside it."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for marker, (name, points) in zip("osD^vP*X", lines.items(), strict=False):
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], marker=marker, label=name)
        for x, y, label in points:
            axes.annotate(label, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    axes.legend(title=f"{of}; beside the points {beside}", fontsize=8, title_fontsize=8)
    return figure


def main(*arguments: str) -> None:
    sweep, of, beside, across, up, picture = arguments
    benchmark = collect(Path(sweep))
    names = {wanted: next(name for name in benchmark.columns if wanted in name) for wanted in (across, up)}
    lines: dict[str, list[tuple[float, Point]]] = defaultdict(list)
    for row in benchmark.rows:
        settings = {wanted: next(v for k, v in row.settings.items() if k.endswith(wanted)) for wanted in (of, beside)}
        numbers = [row.numbers[names[wanted]].value for wanted in (across, up)]
        lines[str(settings[of])].append((float(settings[beside]), (*numbers, str(settings[beside]))))
    ordered = {name: [point for _, point in sorted(points)] for name, points in sorted(lines.items())}
    front(ordered, names[across], names[up], of, beside).savefig(picture, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
