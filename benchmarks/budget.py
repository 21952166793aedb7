"""Runs of the commands with a budget of CPU seconds, whose results a folder remembers."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HOUSE = Path(__file__).resolve().parent.parent
SHORT = (20, 120)  # steps of the runs that tell the cost of one


def run(script: str, folder: Path, arguments: list[str]) -> tuple[int, float]:
    """The exit status and the CPU seconds of a command in one thread; shown before it starts."""
    print(" ".join(["python", script, *arguments]), flush=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        sys.executable,
        str(HOUSE / script),
        *arguments,
        f"hydra.run.dir={folder}",
        f"hydra.sweep.dir={folder}",
        "overwrite=true",
    ]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return status, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def remembered(path: Path, make: Callable[[], dict]) -> dict:
    """What ``make`` gave when it was first asked."""
    if not path.exists():
        made = make()
        path.write_text(json.dumps(made))
    return json.loads(path.read_text())


def steps_for(folder: Path, typed: list[str], seconds: float) -> int:
    """As many steps of ``python train.py TYPED`` as ``seconds`` of CPU are worth."""

    def cost() -> dict:
        spent = []
        for steps in SHORT:
            status, used = run("train.py", folder, [*typed, f"trainer.max_steps={steps}", "callbacks=[]", "metrics=[]"])
            if status:
                sys.exit(f"the run that tells the cost of a step failed, see {folder}.log")
            spent.append(used)
        return {"seconds": (spent[1] - spent[0]) / (SHORT[1] - SHORT[0])}

    return max(round(seconds / remembered(folder.parent / f"{folder.name}.json", cost)["seconds"]), 1)
