"""Sweeps as ``python evaluate.py -m`` leaves them, without the sampling."""

import json
from pathlib import Path

import torch
from PIL import Image

from oboro.evaluate.result import Result
from oboro.evaluate.version_1 import settings_of, std_of
from oboro.metrics import Value

PROTOCOL = {
    "reference_fingerprint": "8e0b965a763c93d4",
    "reference_split": "train",
    "reference_samples": 60000,
    "extractor": "fashion",
    "extractor_digest": "4fd7f9c1a71bcef4",
    "resize": "none",
    "quantisation": "uint8 round",
    "samples": 2000,
    "seed": 0,
    "first": 0,
    "chunk": 100,
    "precision": "32-true",
    "device": "cpu",
    "ema": "std005",
    "schedule": "Linear()",
    "sampler": "DDIM(steps=10, eta=0.0)",
    "guidance": "Unguided()",
    "evaluations_per_sample": 10,
}
FD, PRECISION = "fd_fashion_2000", "precision_fashion_2000"


class Sweep:
    """``sweep.job(...)`` writes one more job into ``sweep.folder``; what is not named is as in ``PROTOCOL``.

    Settings are given as text for short, ``sampler="DDIM(steps=5)"``.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.jobs = 0

    def job(
        self,
        *values: float,
        seconds: float = 20.0,
        checkpoint: str = "/runs/first/checkpoints/last.ckpt",
        step: int = 30000,
        how: str = "PrecisionRecall(k=3)",
        repeats: dict | None = None,
        extra: dict[str, Value] | None = None,
        **protocol,
    ) -> Path:
        """``values``: a Fréchet distance, and a precision after it if there are two."""
        fd = Value(values[0], better=-1, real=0.25, real_n=2000, settings={"name": "Frechet"})
        found = {FD: fd}
        if values[1:]:
            found[PRECISION] = Value(values[1], better=1, real=0.8, real_n=2000, settings=settings_of(how))
        protocol = {**PROTOCOL, **protocol}
        protocol |= {k: settings_of(protocol[k]) for k in ("schedule", "sampler", "guidance")}
        protocol["ema"] = {"name": protocol["ema"], "std": std_of(protocol["ema"])}
        result = Result({**found, **(extra or {})}, protocol, seconds, torch.empty(0)).plain()
        result |= {"checkpoint": checkpoint, "step": step}
        if repeats:
            result |= {"values": {name: r["mean"] for name, r in repeats.items()}, "repeats": repeats}
        folder = self.folder / str(self.jobs)
        folder.mkdir(parents=True)
        (folder / "evaluation.json").write_text(json.dumps(result))
        self.jobs += 1
        return folder

    def fail(self) -> Path:
        folder = self.folder / str(self.jobs)
        folder.mkdir(parents=True)
        self.jobs += 1
        return folder

    def grid(self) -> None:
        """Three samplers, four numbers of steps, two scales: quality improves with steps, each in its own way."""
        for k, name in enumerate(("DDIM", "Heun", "DPMSolverPP")):
            for steps in (5, 10, 20, 50):
                for scale in (1, 2):
                    evaluations = scale * (2 * steps - 1 if name == "Heun" else steps)
                    distance = (60, 400, 45)[k] * steps ** -(1.3, 2, 1.8)[k] * (1 + 0.1 * scale) + 3 - 0.1 * k + scale
                    self.job(
                        distance,
                        0.9 - 0.01 * distance,
                        seconds=evaluations * (1 + 0.1 * k),
                        sampler=f"{name}(steps={steps}{', eta=0.0' if name == 'DDIM' else ''})",
                        guidance=f"ClassifierFree(scale={scale}.0)",
                        evaluations_per_sample=evaluations,
                    )


def spread(name: str, mean: float, std: float) -> dict:
    return {name: {"mean": mean, "std": std, "min": mean - std, "max": mean + std, "values": [mean - std, mean + std]}}


def samples(folder: Path, height: int = 70, columns: int = 10) -> Image.Image:
    """A ``samples.png`` unlike that of any other job."""
    g = torch.Generator().manual_seed(int(folder.name))
    pixels = torch.randint(0, 256, (height, columns * height), dtype=torch.uint8, generator=g)
    picture = Image.fromarray(pixels.numpy())
    picture.save(folder / "samples.png")
    return picture
