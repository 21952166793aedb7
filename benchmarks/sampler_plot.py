"""The picture and the table of docs/choosing.md: Fréchet distance against network evaluations, for every sampler.

python benchmarks/sampler_plot.py SWEEP [docs/choosing.png]

SWEEP is the folder of a sweep of `evaluate.py -m` over samplers and steps. The table goes to stdout.
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from oboro.evaluate.result import read_result

PANELS = {
    "one evaluation a step": ["ddim", "dpm_solver_pp", "dpm_solver_pp_3m", "unipc", "deis", "lms", "ipndm", "pndm"],
    "two evaluations a step": ["dpm_solver_pp", "heun", "dpm_solver_2", "dpm_solver_pp_2s"],
    "with noise": [
        "dpm_solver_pp",
        "ddim_ancestral",
        "dpm_solver_pp_sde",
        "dpm_solver_pp_3m_sde",
        "dpm_solver_pp_2s_sde",
        "heun_churn",
        "restart",
    ],
}
REFERENCE = "dpm_solver_pp"  # in every panel, in grey where it is not at home
TICKS_X, TICKS_Y = (4, 6, 8, 12, 24, 48), (4, 5, 6, 7, 8, 10, 15, 20, 30, 50)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F00")
MARKERS = "os^DvPX<"


def measured(sweep: Path) -> tuple[str, dict[str, list[tuple[float, float, float]]]]:
    """The name of the first metric, and (evaluations, value, real images) by sampler, those of few steps first."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    name = ""
    for job in json.loads((sweep / "jobs.json").read_text())["jobs"]:
        overrides = dict(override.split("=", 1) for override in job["overrides"])
        result = read_result(sweep / job["path"] / "evaluation.json")
        name, value = next(iter(result["metrics"].items()))
        point = (result["protocol"]["evaluations_per_sample"], value["value"], value["real"])
        found.setdefault(overrides["sampler"], []).append(point)
    return name, {sampler: sorted(points) for sampler, points in found.items()}


def draw(name: str, found: dict[str, list[tuple[float, float, float]]], path: Path) -> None:
    figure, panels = plt.subplots(1, len(PANELS), figsize=(13, 4.8), sharey=True, layout="constrained")
    values = [value for points in found.values() for _, value, _ in points]
    for axes, (title, samplers) in zip(panels, PANELS.items(), strict=True):
        for k, sampler in enumerate(s for s in samplers if s in found):
            x, y, _ = zip(*found[sampler], strict=True)
            guest = sampler == REFERENCE and samplers[0] == REFERENCE
            look = {"color": "0.6", "linewidth": 3} if guest else {"color": COLOURS[k], "marker": MARKERS[k]}
            axes.plot(x, y, label=sampler, markersize=6, **look)
        axes.set(xscale="log", yscale="log", title=title, xlabel="network evaluations a sample")
        axes.set_xticks(TICKS_X, [str(t) for t in TICKS_X])
        axes.set_yticks(TICKS_Y, [str(t) for t in TICKS_Y])
        axes.set_xlim(3.5, 66)
        axes.set_ylim(0.95 * min(values), 1.05 * max(values))
        axes.minorticks_off()
        axes.grid(color="0.9")
        axes.legend(fontsize=9, frameon=False, loc="upper right")
    panels[0].set_ylabel(name)
    figure.savefig(path, dpi=120)


def table(found: dict[str, list[tuple[float, float, float]]]) -> str:
    """Markdown: a sampler a row, ``distance (evaluations)`` for each number of steps."""
    rows = [f"| `{s}` | " + " | ".join(f"{v:.2f} ({n:g})" for n, v, _ in points) + " |" for s, points in found.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    metric, points = measured(Path(sys.argv[1]))
    draw(metric, points, Path(sys.argv[2]) if len(sys.argv) > 2 else Path("docs/choosing.png"))
    print(table(points))
