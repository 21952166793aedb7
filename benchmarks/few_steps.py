"""The table of docs/few_steps.md: students of one teacher at equal training time, and the teacher's own solvers.

    python benchmarks/few_steps.py FOLDER TEACHER --seconds 600 --seeds 3

trains each student with ``python train.py init=TEACHER`` for as many steps as ``--seconds`` of one CPU core are worth,
and measures 2,000 samples of the averaged weights at 1, 2 and 4 evaluations with ``python evaluate.py``; beside them
stand what the best of the teacher's solvers has at as many evaluations, and Heun's 18 steps, 35 evaluations. What lies
in FOLDER already is not done again. Teacher and students are drawn without guidance. Numbers are means ± standard
deviations over the seeds of training and sampling.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean, stdev

from budget import remembered, run, steps_for

from oboro.evaluate.result import read_result

STUDENTS = {
    "ECT": ["experiment=ect_fashion"],
    "MeanFlow": ["experiment=mean_flow_fashion"],
    "sCD": ["experiment=scd_fashion"],
    "DMD2": ["task=distillation", "experiment=dmd2_fashion"],
}
SOLVERS = ("ddim", "dpm_solver_pp", "unipc", "deis", "ipndm")  # of one evaluation a step
STEPS = (1, 2, 4)
REFERENCE = ["sampler=heun", "sampler.steps=18"]
MEASURED = ["guidance=unguided", "metrics=[frechet,precision_recall]", "n=2000"]
DISTANCE, RECALL = "fd_fashion_2000", "recall_fashion_2000"

Numbers = dict[str, float]


def evaluated(folder: Path, checkpoint: Path, seed: int, sampler: list[str]) -> Numbers:
    """Distance and recall of samples."""

    def make() -> Numbers:
        status, _ = run("evaluate.py", folder, [f"checkpoint={checkpoint}", *MEASURED, f"seed={seed}", *sampler])
        if status:
            sys.exit(f"measuring failed, see {folder}.log")
        return read_result(folder / "evaluation.json")["values"]

    folder.parent.mkdir(parents=True, exist_ok=True)
    return remembered(folder.parent / f"{folder.name}.json", make)


def student(folder: Path, teacher: Path, typed: list[str], seed: int, steps: int) -> dict[int, Numbers]:
    """Its numbers by evaluations."""
    model = folder / f"seed-{seed}"

    def make() -> Numbers:
        arguments = [*typed, f"init={teacher}", f"seed={seed}", "data.seed=0", f"trainer.max_steps={steps}"]
        arguments += ["metrics=[]", "callbacks=[checkpoints,throughput]", f"trainer.val_check_interval={steps}"]
        status, used = run("train.py", model, arguments)
        if status:
            sys.exit(f"training failed, see {model}.log")
        return {"cpu": used}

    remembered(folder / f"seed-{seed}-trained.json", make)
    last = model / "checkpoints" / "last.ckpt"
    return {k: evaluated(folder / f"seed-{seed}-steps-{k}", last, seed, [f"sampler.steps={k}"]) for k in STEPS}


def solved(folder: Path, teacher: Path, seed: int) -> dict[int, Numbers]:
    """The best of the teacher's solvers by evaluations."""
    best = {}
    for k in STEPS:
        ways = [
            evaluated(folder / f"{s}-{k}-{seed}", teacher, seed, [f"sampler={s}", f"sampler.steps={k}"])
            for s in SOLVERS
        ]
        best[k] = min(ways, key=lambda numbers: numbers[DISTANCE])
    return best


def shown(values: list[float], digits: int) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def cells(runs: list[dict[int, Numbers]], reference: float) -> list[str]:
    """Distance, its ratio to ``reference``, and recall at each number of evaluations."""
    made = []
    for k in STEPS:
        distances = [numbers[k][DISTANCE] for numbers in runs]
        made += [f"{shown(distances, 2)} ({mean(distances) / reference:.2f}×)", shown([n[k][RECALL] for n in runs], 3)]
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
    of_teacher = folder / "teacher"
    full = [evaluated(of_teacher / f"heun-18-{seed}", teacher, seed, REFERENCE) for seed in seeds]
    reference = mean(numbers[DISTANCE] for numbers in full)
    heads = [f"{what}, {k} step{'s' * (k > 1)}" for k in STEPS for what in ("distance", "recall")]
    lines = [f"| | steps of training | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    best = [solved(of_teacher, teacher, seed) for seed in seeds]
    lines.append(f"| best solver of the teacher | | {' | '.join(cells(best, reference))} |")
    for name in arguments.only:
        place = folder / f"{name}-{arguments.seconds:g}"
        place.mkdir(parents=True, exist_ok=True)
        steps = steps_for(place / "cost", [*STUDENTS[name], f"init={teacher}"], arguments.seconds)
        runs = [student(place, teacher, STUDENTS[name], seed, steps) for seed in seeds]
        lines.append(f"| {name} | {steps:,} | {' | '.join(cells(runs, reference))} |")
    recall = shown([numbers[RECALL] for numbers in full], 3)
    print("\n".join(lines), f"\nthe teacher at 35 evaluations: {reference:.2f}, recall {recall}")


if __name__ == "__main__":
    main()
