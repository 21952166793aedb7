"""What an evaluation shows beside its numbers."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from oboro.data import DataModule
from oboro.evaluate.evaluator import Evaluator
from oboro.evaluate.result import Result
from oboro.report.pictures import rows_picture, stored
from oboro.task import Generation

PAIRS = 10  # closest pairs in the picture of the memorisation audit


def save_compared(folder: Path, evaluator: Evaluator, task: Generation, samples: Tensor) -> None:
    """``compared.png``, where samples are measured against pictures that they were drawn after: above the first
    ``samples`` what their conditions show, and below them the true pictures."""
    if not evaluator.paired:
        return
    modality, given = evaluator.data.modality, evaluator.after.given(task.conditioner, range(len(samples)))
    if given.observations:  # draws of one class have no true picture
        observed = [stored(modality, observation.picture) for observation in given.observations]
        rows_picture(modality, *observed, samples, modality.to_stored(given.truth)).save(folder / "compared.png")


def save_closest_pairs(folder: Path, data: DataModule, drawn: Callable[[list[int]], Tensor], result: Result) -> None:
    """``closest_pairs.png``, where it was measured how close samples come to training images: ``drawn`` gives samples
    by their numbers."""
    closest = (value.detail["closest"][:PAIRS] for value in result.values.values() if "closest" in value.detail)
    if pairs := next(closest, None):
        samples, training = ([pair[key] for pair in pairs] for key in ("sample", "training"))
        path = folder / "closest_pairs.png"
        rows_picture(data.modality, drawn(samples), data.train.samples[training]).save(path)
        print(f"samples above, the training samples they come closest to below: {path}")
