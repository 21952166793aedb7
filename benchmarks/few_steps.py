"""The table of docs/few_steps.md: students of one teacher, and the teacher's own solvers.

    python benchmarks/few_steps.py FOLDER TEACHER --seeds 3

trains each student with ``python train.py init=TEACHER experiment=...`` in one thread, for as many steps as the
experiment has, and measures 2,000 samples of the averaged weights at 1, 2 and 4 evaluations with ``python evaluate.py
-m``; beside them stand what the best of the teacher's solvers has at as many evaluations, and Heun's 18 steps, 35
evaluations. What lies in FOLDER already is not done again. Teacher and students are drawn without guidance. Numbers of
students are means ± standard deviations over the seeds of training and sampling, those of the teacher of one seed;
FOLDER/curve.png is the picture, against evaluations of a sample and against those of all training until then. Minutes
are CPU time, all rounds of a student together, each with its start.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from budget import remembered, run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from oboro.report.collect import collect

SHORT = ["loss.derivative=finite", "trainer.max_steps=1000"]  # half of what the experiment has, in a third of the time
STUDENTS = {  # rounds, each from the last one's weights, and the steps that it is drawn with
    "ECT": [(["experiment=ect_fashion"], "1,2,4")],
    "CD": [(["experiment=cd_fashion"], "1,2,4")],
    "PD": [
        (["experiment=pd_fashion", "loss.steps=4", "loss.solver=heun"], "4"),
        (["experiment=pd_fashion", "loss.steps=2", "trainer.max_steps=1300"], "2"),
        (["experiment=pd_fashion", "loss.steps=1", "trainer.max_steps=1300"], "1"),
    ],
    "MeanFlow": [(["experiment=mean_flow_fashion", *SHORT], "1,2,4")],
    "sCD": [(["experiment=scd_fashion", "loss.warmup_steps=250", *SHORT], "1,2,4")],
    "DMD2": [(["task=distillation", "experiment=dmd2_fashion", "loss.teacher.path={teacher}"], "1")],
}
BEGINS = {"DMD2": "PD"}  # from the last round of another student, whose minutes count as its own
SOLVERS = ["sampler=ddim,dpm_solver_pp,unipc,deis,ipndm", "sampler.steps=1,2,4"]  # of one evaluation a step
STEPS = (1, 2, 4)
REFERENCE = ["sampler=heun", "sampler.steps=18"]
MEASURED = ["-m", "hydra/launcher=basic", "guidance=unguided", "metrics=[frechet,precision_recall]", "n=2000"]
DISTANCE, RECALL = "fd_fashion_2000", "recall_fashion_2000"

Numbers = dict[float, tuple[float, float, int]]  # by evaluations distance, recall, and evaluations of the training


def measured(sweep: Path, checkpoint: Path, seed: int, typed: list[str]) -> Numbers:
    """Of the sampler with the least distance."""

    def make() -> dict:
        status, _ = run("evaluate.py", sweep, [*MEASURED, f"checkpoint={checkpoint}", f"seed={seed}", *typed])
        if status:
            sys.exit(f"measuring failed, see {sweep}.log")
        return {
            "rows": [
                [row.evaluations, *(row.numbers[name].value for name in (DISTANCE, RECALL)), row.training_evaluations]
                for row in collect(sweep).rows
            ]
        }

    sweep.parent.mkdir(parents=True, exist_ok=True)
    rows = remembered(sweep.parent / f"{sweep.name}.json", make)["rows"]
    return {k: tuple(numbers) for k, *numbers in sorted(rows, key=lambda row: -row[1])}


def student(folder: Path, teacher: Path, name: str, seed: int) -> tuple[Numbers, float, Path]:
    """Its numbers, the CPU minutes of its training, and its checkpoint."""
    numbers, minutes, init = Numbers(), 0.0, teacher
    if name in BEGINS:
        _, minutes, init = student(folder, teacher, BEGINS[name], seed)
    for k, (typed, steps) in enumerate(STUDENTS[name]):
        model = folder / name / f"seed-{seed}-round-{k}"
        model.parent.mkdir(parents=True, exist_ok=True)

        def make(model: Path = model, typed: list[str] = typed, init: Path = init) -> dict:
            arguments = [word.format(teacher=teacher) for word in typed]
            arguments += [f"init={init}", f"seed={seed}", "data.seed=0"]
            arguments += ["metrics=[]", "callbacks=[checkpoints,throughput]"]
            status, used = run("train.py", model, arguments)
            if status:
                sys.exit(f"training failed, see {model}.log")
            return {"minutes": used / 60}

        minutes += remembered(model.parent / f"{model.name}-trained.json", make)["minutes"]
        init = model / "checkpoints" / "last.ckpt"
        numbers |= measured(model.parent / f"{model.name}-measured", init, seed, [f"sampler.steps={steps}"])
    return numbers, minutes, init


def shown(values: Sequence[float], digits: int) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def cells(runs: Sequence[Numbers], reference: float) -> list[str]:
    """Distance, its ratio to ``reference``, and recall at each number of evaluations that was drawn with."""
    made = []
    for k in STEPS:
        if k not in runs[0]:
            made += ["", ""]
            continue
        distances, recalls, _ = zip(*(numbers[k] for numbers in runs), strict=True)
        made += [f"{shown(distances, 2)} ({mean(distances) / reference:.2f}×)", shown(recalls, 3)]
    return made


def picture(lines: dict[str, list[Numbers]], full: tuple[float, float], path: Path) -> None:
    """Means over seeds with their range, against evaluations of a sample and of the training, where the numbers at the
    points are those of a sample; dotted is the teacher with all its steps."""
    figure = Figure(figsize=(10, 6.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharey="row")
    for k, (row, what) in enumerate(zip(panels, ("Fréchet distance (fashion)", "recall"), strict=True)):
        for name, runs in lines.items():
            steps = [step for step in STEPS if step in runs[0]]
            trained = [runs[0][step][2] for step in steps]
            values = [[numbers[step][k] for numbers in runs] for step in steps]
            middle = [mean(each) for each in values]
            ends = [[m - min(each) for m, each in zip(middle, values, strict=True)]]
            ends += [[max(each) - m for m, each in zip(middle, values, strict=True)]]
            for axes, x in zip(row, (steps, trained), strict=True):
                axes.errorbar(x, middle, ends, marker="o", markersize=4, capsize=3, label=name)
            for step, at, value in zip(steps, trained, middle, strict=True):
                row[1].annotate(str(step), (at, value), (5, -3), textcoords="offset points", fontsize=6)
        for axes in row:
            axes.axhline(full[k], color="0.4", linestyle=":", label="teacher, all steps")
            axes.set_xscale("log")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color="0.92")
        row[0].set_ylabel(what)
        row[0].set_xticks(STEPS, [str(step) for step in STEPS])
        row[1].set_xticks(ticks := (100_000, 200_000, 500_000), [f"{tick:,}" for tick in ticks])
        for axes in row:
            axes.minorticks_off()
    panels[0, 0].set_yscale("log")
    panels[0, 0].set_yticks(ticks := [5, 10, 20, 50], [str(tick) for tick in ticks])
    panels[0, 0].minorticks_off()
    for axes, label in zip(panels[1], ("network evaluations a sample", "network evaluations in training"), strict=True):
        axes.set_xlabel(label)
    marks = panels[0, 0].get_legend_handles_labels()
    figure.legend(*marks, loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=STUDENTS, default=list(STUDENTS), help="some of the students")
    arguments = parser.parse_args()
    folder, teacher, seeds = arguments.folder.resolve(), arguments.teacher.resolve(), range(arguments.seeds)
    ((evaluations, (reference, recall, _)),) = measured(folder / "teacher" / "full", teacher, 0, REFERENCE).items()
    heads = [f"{what}, {k} step{'s' * (k > 1)}" for k in STEPS for what in ("distance", "recall")]
    lines = [f"| | minutes | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    best = measured(folder / "teacher" / "solvers", teacher, 0, SOLVERS)
    lines.append(f"| best solver of the teacher | | {' | '.join(cells([best], reference))} |")
    drawn = {"teacher, best solver": [best]}
    for name in arguments.only:
        runs, minutes, _ = zip(*(student(folder, teacher, name, seed) for seed in seeds), strict=True)
        lines.append(f"| {name} | {shown(minutes, 1)} | {' | '.join(cells(runs, reference))} |")
        drawn[name] = list(runs)
    print("\n".join(lines), f"\nthe teacher at {evaluations:g} evaluations: {reference:.2f}, recall {recall:.3f}")
    picture(drawn, (reference, recall), folder / "curve.png")


if __name__ == "__main__":
    main()
