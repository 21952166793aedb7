"""The table of docs/few_steps.md: students of one teacher at equal training time, and the teacher's own solvers.

    python benchmarks/few_steps.py FOLDER TEACHER --seconds 600 --seeds 3

trains each student with ``python train.py init=TEACHER`` for as many steps as ``--seconds`` of one CPU core are worth,
and measures 2,000 samples of the averaged weights at 1, 2 and 4 evaluations with ``python evaluate.py -m``; beside them
stand what the best of the teacher's solvers has at as many evaluations, and Heun's 18 steps, 35 evaluations. What lies
in FOLDER already is not done again. Teacher and students are drawn without guidance. Numbers of students are means ±
standard deviations over the seeds of training and sampling, those of the teacher of one seed; FOLDER/curve.png shows
the first seed.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean, stdev

from budget import remembered, run, steps_for

from oboro.report.collect import collect
from oboro.report.curve import curve_figure

STUDENTS = {
    "ECT": ["experiment=ect_fashion"],
    "MeanFlow": ["experiment=mean_flow_fashion"],
    "sCD": ["experiment=scd_fashion"],
    "DMD2": ["task=distillation", "experiment=dmd2_fashion"],
}
SOLVERS = ["sampler=ddim,dpm_solver_pp,unipc,deis,ipndm", "sampler.steps=1,2,4"]  # of one evaluation a step
STEPS = (1, 2, 4)
REFERENCE = ["sampler=heun", "sampler.steps=18"]
MEASURED = ["-m", "hydra/launcher=basic", "guidance=unguided", "metrics=[frechet,precision_recall]", "n=2000"]
DISTANCE, RECALL = "fd_fashion_2000", "recall_fashion_2000"

Numbers = tuple[float, float]  # distance and recall


def measured(sweep: Path, checkpoint: Path, seed: int, typed: list[str]) -> dict[float, Numbers]:
    """By evaluations, the numbers of the sampler with the least distance."""

    def make() -> dict:
        status, _ = run("evaluate.py", sweep, [*MEASURED, f"checkpoint={checkpoint}", f"seed={seed}", *typed])
        if status:
            sys.exit(f"measuring failed, see {sweep}.log")
        rows = [(row.evaluations, row.numbers) for row in collect(sweep).rows]
        return {"rows": [[k, numbers[DISTANCE].value, numbers[RECALL].value] for k, numbers in rows]}

    sweep.parent.mkdir(parents=True, exist_ok=True)
    rows = remembered(sweep.parent / f"{sweep.name}.json", make)["rows"]
    return {k: (distance, recall) for k, distance, recall in sorted(rows, key=lambda row: -row[1])}


def student(folder: Path, teacher: Path, typed: list[str], seed: int, steps: int) -> dict[float, Numbers]:
    """Its numbers by evaluations."""
    model = folder / f"seed-{seed}"

    def make() -> dict:
        arguments = [*typed, f"init={teacher}", f"seed={seed}", "data.seed=0", f"trainer.max_steps={steps}"]
        arguments += ["metrics=[]", "callbacks=[checkpoints,throughput]", f"trainer.val_check_interval={steps}"]
        status, used = run("train.py", model, arguments)
        if status:
            sys.exit(f"training failed, see {model}.log")
        return {"cpu": used}

    remembered(folder / f"seed-{seed}-trained.json", make)
    last = model / "checkpoints" / "last.ckpt"
    return measured(folder / f"seed-{seed}-measured", last, seed, [f"sampler.steps={','.join(map(str, STEPS))}"])


def shown(values: list[float], digits: int) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def cells(runs: list[dict[float, Numbers]], reference: float) -> list[str]:
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
    parser.add_argument("--seconds", type=float, default=600.0, help="of one CPU core, for each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=STUDENTS, default=list(STUDENTS), help="some of the students")
    arguments = parser.parse_args()
    folder, teacher, seeds = arguments.folder.resolve(), arguments.teacher.resolve(), range(arguments.seeds)
    reference, recall = measured(folder / "teacher" / "full", teacher, 0, REFERENCE)[35]
    heads = [f"{what}, {k} step{'s' * (k > 1)}" for k in STEPS for what in ("distance", "recall")]
    lines = [f"| | steps of training | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    best = measured(folder / "teacher" / "solvers", teacher, 0, SOLVERS)
    lines.append(f"| best solver of the teacher | | {' | '.join(cells([best], reference))} |")
    sweeps = [folder / "teacher" / "full", folder / "teacher" / "solvers"]
    for name in arguments.only:
        place = folder / f"{name}-{arguments.seconds:g}"
        place.mkdir(parents=True, exist_ok=True)
        steps = steps_for(place / "cost", [*STUDENTS[name], f"init={teacher}"], arguments.seconds)
        runs = [student(place, teacher, STUDENTS[name], seed, steps) for seed in seeds]
        lines.append(f"| {name} | {steps:,} | {' | '.join(cells(runs, reference))} |")
        sweeps.append(place / "seed-0-measured")
    print("\n".join(lines), f"\nthe teacher at 35 evaluations: {reference:.2f}, recall {recall:.3f}")
    curve_figure(collect(*sweeps)).savefig(folder / "curve.png", dpi=150)


if __name__ == "__main__":
    main()
