"""The table of docs/few_steps.md: students of one teacher, and the teacher's own solvers.

    python benchmarks/few_steps.py FOLDER TEACHER --seeds 3

trains each student with ``python train.py init=TEACHER experiment=...`` in one thread, for as many steps as the
experiment has, and measures 2,000 samples of the averaged weights at 1, 2 and 4 evaluations with ``python evaluate.py
-m``; beside them stand what the best of the teacher's solvers has at as many evaluations, and Heun's 18 steps, 35
evaluations. What lies in FOLDER already is not done again. Teacher and students are drawn without guidance. Numbers of
students are means ± standard deviations over the seeds of training and sampling, those of the teacher of one seed;
FOLDER/curve.png shows the first seed. Minutes are CPU time, all rounds of a student together, each with its start.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean, stdev

from budget import remembered, run

from oboro.report.collect import collect
from oboro.report.curve import curve_figure

STUDENTS = {  # rounds, each from the last one's weights, and the steps that it is drawn with
    "ECT": [(["experiment=ect_fashion"], "1,2,4")],
    "CD": [(["experiment=cd_fashion"], "1,2,4")],
    "PD": [
        (["experiment=pd_fashion", "loss.steps=4", "loss.teacher_steps=4"], "4"),
        (["experiment=pd_fashion", "loss.steps=2"], "2"),
        (["experiment=pd_fashion", "loss.steps=1"], "1"),
    ],
    "MeanFlow": [(["experiment=mean_flow_fashion"], "1,2,4")],
    "sCD": [(["experiment=scd_fashion"], "1,2,4")],
    "DMD2": [(["task=distillation", "experiment=dmd2_fashion"], "1,2,4")],
}
SOLVERS = ["sampler=ddim,dpm_solver_pp,unipc,deis,ipndm", "sampler.steps=1,2,4"]  # of one evaluation a step
STEPS = (1, 2, 4)
REFERENCE = ["sampler=heun", "sampler.steps=18"]
MEASURED = ["-m", "hydra/launcher=basic", "guidance=unguided", "metrics=[frechet,precision_recall]", "n=2000"]
DISTANCE, RECALL = "fd_fashion_2000", "recall_fashion_2000"

Numbers = dict[float, tuple[float, float]]  # by evaluations distance and recall


def measured(sweep: Path, checkpoint: Path, seed: int, typed: list[str]) -> Numbers:
    """Of the sampler with the least distance."""

    def make() -> dict:
        status, _ = run("evaluate.py", sweep, [*MEASURED, f"checkpoint={checkpoint}", f"seed={seed}", *typed])
        if status:
            sys.exit(f"measuring failed, see {sweep}.log")
        rows = [(row.evaluations, row.numbers) for row in collect(sweep).rows]
        return {"rows": [[k, numbers[DISTANCE].value, numbers[RECALL].value] for k, numbers in rows]}

    sweep.parent.mkdir(parents=True, exist_ok=True)
    rows = remembered(sweep.parent / f"{sweep.name}.json", make)["rows"]
    return {k: (distance, recall) for k, distance, recall in sorted(rows, key=lambda row: -row[1])}


def student(folder: Path, teacher: Path, name: str, seed: int) -> tuple[Numbers, float, list[Path]]:
    """Its numbers, the CPU minutes of its training, and the folders of its measurements."""
    numbers, minutes, sweeps, init = Numbers(), 0.0, list[Path](), teacher
    for k, (typed, steps) in enumerate(STUDENTS[name]):
        model = folder / name / f"seed-{seed}-round-{k}"
        model.parent.mkdir(parents=True, exist_ok=True)

        def make(model: Path = model, typed: list[str] = typed, init: Path = init) -> dict:
            arguments = [*typed, f"init={init}", f"seed={seed}", "data.seed=0"]
            arguments += ["metrics=[]", "callbacks=[checkpoints,throughput]"]
            status, used = run("train.py", model, arguments)
            if status:
                sys.exit(f"training failed, see {model}.log")
            return {"minutes": used / 60}

        minutes += remembered(model.parent / f"{model.name}-trained.json", make)["minutes"]
        init = model / "checkpoints" / "last.ckpt"
        sweeps.append(model.parent / f"{model.name}-measured")
        numbers |= measured(sweeps[-1], init, seed, [f"sampler.steps={steps}"])
    return numbers, minutes, sweeps


def shown(values: list[float], digits: int) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def cells(runs: list[Numbers], reference: float) -> list[str]:
    """Distance, its ratio to ``reference``, and recall at each number of evaluations."""
    made = []
    for k in STEPS:
        distances, recalls = zip(*(numbers[k] for numbers in runs), strict=True)
        made += [f"{shown(distances, 2)} ({mean(distances) / reference:.2f}×)", shown(recalls, 3)]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=STUDENTS, default=list(STUDENTS), help="some of the students")
    arguments = parser.parse_args()
    folder, teacher, seeds = arguments.folder.resolve(), arguments.teacher.resolve(), range(arguments.seeds)
    reference, recall = measured(folder / "teacher" / "full", teacher, 0, REFERENCE)[35]
    heads = [f"{what}, {k} step{'s' * (k > 1)}" for k in STEPS for what in ("distance", "recall")]
    lines = [f"| | minutes | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    best = measured(folder / "teacher" / "solvers", teacher, 0, SOLVERS)
    lines.append(f"| best solver of the teacher | | {' | '.join(cells([best], reference))} |")
    sweeps = [folder / "teacher" / "full", folder / "teacher" / "solvers"]
    for name in arguments.only:
        runs = [student(folder, teacher, name, seed) for seed in seeds]
        minutes = shown([spent for _, spent, _ in runs], 1)
        lines.append(f"| {name} | {minutes} | {' | '.join(cells([numbers for numbers, *_ in runs], reference))} |")
        sweeps += runs[0][2]
    print("\n".join(lines), f"\nthe teacher at 35 evaluations: {reference:.2f}, recall {recall:.3f}")
    curve_figure(collect(*sweeps)).savefig(folder / "curve.png", dpi=150)


if __name__ == "__main__":
    main()
