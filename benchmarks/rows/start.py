"""How long a command takes that computes nothing, and the first step of a run whose data are cached."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rows.row import Contender, Row

ROOT = Path(__file__).resolve().parents[2]
row = Row("seconds until a command has done it", 3)


def command(*words: str) -> Contender:
    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            typed = [sys.executable, str(ROOT / "train.py"), *words, f"hydra.run.dir={folder}/run"]
            subprocess.run(typed, check=True, cwd=folder, env=os.environ, capture_output=True)

    return call


@row.contender
def help() -> Contender:
    return command("--help")


@row.contender
def configuration() -> Contender:
    return command("--cfg", "job")


@row.contender
def import_lightning() -> Contender:
    def call() -> None:
        subprocess.run([sys.executable, "-c", "import lightning"], check=True)

    return call


@row.contender
def first_step() -> Contender:
    return command("trainer.max_steps=1", "metrics=[]", "callbacks=[]", "logger=[jsonl]")
