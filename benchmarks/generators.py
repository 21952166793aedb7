"""The table of docs/generators.md: diffusion, a GAN, a VAE and a denoising autoencoder at equal training time.

    python benchmarks/generators.py FOLDER --seconds 300 --seeds 3

trains each with ``python train.py`` for as many steps as ``--seconds`` of one CPU core are worth, which two short runs
find out, draws 2,000 samples of the averaged weights and measures them with ``python evaluate.py``; what lies in FOLDER
already is not done again. ``--unconditional`` trains all without labels. CPU seconds count, so other work on the
machine does little harm.

A class is missed if the classifier of the ``fashion`` features sees it in less than a tenth of its share of the data. A
seed has diverged if its run ended on numbers that are not finite, or its distance is above twice the median of its
model's. Numbers are means ± standard deviations over the seeds that ended.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import mean, median, stdev

import torch
from budget import remembered, run, steps_for

from oboro.condition import Condition, Label
from oboro.evaluate.result import read_result
from oboro.extractor import Fashion
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.rebuild import averaged, build_task

MODELS = {
    "diffusion, 16 steps": [],
    "GAN": ["experiment=gan_fashion"],
    "VAE": ["experiment=vae_fashion"],
    "denoising autoencoder": ["experiment=denoising_autoencoder_fashion"],
}
UNCONDITIONAL = ["conditioner=unconditional", "guidance=unguided"]
CLASSES, CHUNK, TIMED = 10, 100, 500
COLUMNS = {"fd_fashion": 2, "precision_fashion": 3, "recall_fashion": 3, "classes missed": 1, "ms a sample": 2}


@torch.no_grad()
def drawn(checkpoint: Path) -> dict[str, float]:
    """Milliseconds of one core for a sample, and how many classes are missed."""
    torch.set_num_threads(1)
    task = build_task(load_checkpoint(checkpoint))
    averaged(task, checkpoint, None)
    extractor, seen = Fashion(), torch.zeros(CLASSES)
    spent = 0.0
    for first in range(0, TIMED, CHUNK):
        ids = list(range(first, first + CHUNK))
        labelled = task.conditioner.num_classes > 0
        cond = Condition.of(label=Label(torch.tensor(ids) % CLASSES)) if labelled else Condition()
        start = time.process_time()
        x = task.generate(ids, 0, cond, task.modality.shape)
        spent += time.process_time() - start
        seen += extractor(task.modality.to_stored(x), ("logits",))["logits"].argmax(1).bincount(minlength=CLASSES)
    missed = int((seen / TIMED < 0.1 / CLASSES).sum())  # the data have as many pictures of each class
    return {"ms a sample": 1000 * spent / TIMED, "classes missed": missed}


def measured(folder: Path, typed: list[str], seed: int, steps: int) -> dict[str, float] | None:
    """The numbers of one seed; None where training failed."""
    model = folder / f"seed-{seed}"

    def make() -> dict:
        arguments = [*typed, f"seed={seed}", "data.seed=0", f"trainer.max_steps={steps}", "metrics=[]"]
        arguments += ["callbacks=[checkpoints,throughput]", f"trainer.val_check_interval={steps}"]
        status, used = run("train.py", model, arguments)
        if status:
            return {"failed": (folder / f"{model.name}.log").read_text().strip().splitlines()[-1]}
        last, place = model / "checkpoints" / "last.ckpt", folder / f"evaluation-{seed}"
        status, _ = run("evaluate.py", place, [f"checkpoint={last}", "metrics=[frechet,precision_recall]", "n=2000"])
        if status:
            sys.exit(f"measuring failed, see {place}.log")
        values = read_result(place / "evaluation.json")["values"]
        return {"cpu": used} | drawn(last) | {name.removesuffix("_2000"): value for name, value in values.items()}

    numbers = remembered(folder / f"seed-{seed}.json", make)
    if "failed" in numbers and "finite" not in numbers["failed"]:
        sys.exit(f"training failed and did not diverge: {numbers['failed']} (see {folder}/seed-{seed}.log)")
    return None if "failed" in numbers else numbers


def row(name: str, steps: int, runs: list[dict[str, float] | None]) -> str:
    """A line of the table."""
    ended = [numbers for numbers in runs if numbers is not None]
    cells = [name, f"{steps:,}"]
    for column, digits in COLUMNS.items():
        values = [numbers[column] for numbers in ended]
        spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        cells.append(f"{mean(values):.{digits}f}{spread}" if values else "")
    distances = [numbers["fd_fashion"] for numbers in ended]
    diverged = len(runs) - len(ended) + sum(d > 2 * median(distances) for d in distances)
    return f"| {' | '.join([*cells, f'{diverged} of {len(runs)}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0, help="of one CPU core, for training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--unconditional", action="store_true", help="without labels")
    parser.add_argument("--only", nargs="*", choices=MODELS, default=list(MODELS), help="some of the models")
    arguments = parser.parse_args()
    lines = [f"| model | steps | {' | '.join(COLUMNS)} | diverged |", "|---" * (len(COLUMNS) + 3) + "|"]
    for name in arguments.only:
        kind = "unconditional" if arguments.unconditional else "conditional"
        place = arguments.folder.resolve() / f"{kind}-{arguments.seconds:g}"  # what others ask is done anew
        folder = place / name.replace(",", "").replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        typed = [*MODELS[name]]
        if arguments.unconditional:  # conditioner.dropout of an experiment is of labels
            typed += [*UNCONDITIONAL, *(["~conditioner.dropout"] if MODELS[name] else [])]
        steps = steps_for(folder / "cost", typed, arguments.seconds)
        runs = [measured(folder, typed, seed, steps) for seed in range(arguments.seeds)]
        lines.append(row(name, steps, runs))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
