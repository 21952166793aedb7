"""The entry points: what train.py, sample.py and evaluate.py call."""

from oboro.cli.benchmark import benchmark
from oboro.cli.evaluate import evaluate
from oboro.cli.run import run
from oboro.cli.sample import sample
from oboro.cli.train import train

__all__ = ["benchmark", "evaluate", "run", "sample", "train"]
