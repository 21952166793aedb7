"""``python train.py OVERRIDES`` on the 60,000 pictures: a run for each mark, whose learning rate falls to zero there.

Sampled as the run samples. The pictures are those of ``data=fashion_mnist``, which the other contenders are given.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from budget import run, steps_for
from torch import Tensor

from oboro.condition import Condition, Label
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.rebuild import averaged, build_task
from trainers.point import Given, Point

BATCH, CLASSES, CHUNK = 32, 10, 100
FULL = ["data=fashion_mnist", f"data.batch_size={BATCH}", "data.seed=0", "seed=0", "metrics=[]"]


def first_run(*overrides: str) -> Callable[[Given], Iterator[Point]]:
    def points(given: Given) -> Iterator[Point]:
        for mark in given.marks:
            steps = steps_for(given.folder / "cost", [*FULL, *overrides], mark)
            run_dir = given.folder / f"{mark:g}"
            typed = [*FULL, *overrides, f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"]
            status, _ = run("train.py", run_dir, [*typed, "callbacks=[checkpoints]"])
            if status:
                sys.exit(f"training failed, see {run_dir}.log")
            last = run_dir / "checkpoints" / "last.ckpt"
            yield Point(mark, BATCH * steps, lambda n, last=last: drawn(last, n))

    return points


@torch.no_grad()
def drawn(checkpoint: Path, n: int) -> Tensor:
    task = build_task(load_checkpoint(checkpoint))
    averaged(task, checkpoint, None)
    labelled = task.conditioner.num_classes > 0
    samples = []
    for first in range(0, n, CHUNK):
        ids = list(range(first, min(first + CHUNK, n)))
        cond = Condition.of(label=Label(torch.tensor(ids) % CLASSES)) if labelled else Condition()
        samples.append(task.modality.to_stored(task.generate(ids, 0, cond, task.modality.shape)))
    return torch.cat(samples)
