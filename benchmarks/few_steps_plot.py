"""The curve of docs/few_steps.md over several sweeps: students beside the best solver of their teacher.

python benchmarks/few_steps_plot.py SWEEP [SWEEP ...] curve.png

A SWEEP is the folder of a sweep of `evaluate.py -m` over steps, or over samplers and steps. Of each model the best
value at each number of evaluations goes to stdout, too.
"""

import sys
from pathlib import Path

from oboro.report.collect import collect
from oboro.report.curve import best_at_each, curve_figure, shown


def main(*arguments: str) -> None:
    *sweeps, picture = map(Path, arguments)
    benchmark = collect(*sweeps)
    curve_figure(benchmark).savefig(picture, dpi=150)
    for column in shown(benchmark):
        print(f"\n{column.name}")
        for name, rows in best_at_each(benchmark.rows_with(column), column).items():
            values = ((row.evaluations, row.numbers[column.name].value, row.settings["sampler"]) for row in rows)
            print(f"  {name}: {', '.join(f'{e:g}: {value:.4g} ({sampler})' for e, value, sampler in values)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
