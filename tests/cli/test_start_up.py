"""What a command does before it works: at once, without the libraries that compute; and what a closed pipe does."""

import os
import subprocess
import sys

import pytest

import runs

SLOW = ("torch", "lightning", "matplotlib", "torchvision", "torchmetrics", "scipy", "PIL", "numpy")
# Runs the script named first with the other arguments, and prints which slow libraries it has imported.
PROBE = f"""
import runpy, sys
script, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    print(end.code, file=sys.stderr)
print("imported", [name for name in {SLOW} if name in sys.modules], file=sys.stderr)
"""
# what is typed
AT_ONCE = {
    "help": ("train.py", "--help"),
    "help of sample": ("sample.py", "--help"),
    "help of evaluate": ("evaluate.py", "--help"),
    "configuration": ("train.py", "--cfg", "job"),
    "configuration of Hydra": ("evaluate.py", "--cfg", "hydra"),
    "information": ("train.py", "--info", "defaults"),
    "flags": ("train.py", "--hydra-help"),
    "an unknown flag": ("train.py", "--nosuch"),
    "an unknown option": ("train.py", "sampler=huen"),
    "an unknown key": ("train.py", "data.batchsize=4"),
    "an unknown group": ("sample.py", "smapler=ddim"),
}


@pytest.mark.slow
@pytest.mark.parametrize("typed", AT_ONCE.values(), ids=AT_ONCE)
def test_nothing_slow_is_imported_before_there_is_work(typed, tmp_path):
    script, *arguments = typed
    run = subprocess.run(
        [sys.executable, "-c", PROBE, str(runs.ROOT / script), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.stderr.splitlines()[-1] == "imported []", run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed",
    [
        *([f"{name}.py", "--help"] for name in ("train", "sample", "edit", "evaluate", "detect")),
        ["train.py", "--cfg", "job"],
        ["-m", "oboro"],
        ["-m", "oboro", "pack", "--help"],
        ["-m", "oboro", "train", "--info"],
    ],
    ids=" ".join,
)
def test_a_reader_that_is_gone_ends_a_command_without_a_word(typed, tmp_path):
    """``oboro train --help | head`` when head is done: the status of SIGPIPE, nothing on stderr."""
    first = str(runs.ROOT / typed[0]) if typed[0].endswith(".py") else typed[0]
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [sys.executable, first, *typed[1:]],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (141, "")
