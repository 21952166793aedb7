"""The tables of docs/anomaly.md: detectors on Fashion-MNIST and on photographed textures.

    python benchmarks/anomaly.py FOLDER [--tables novelty defects classes textures] [--seeds 3]

trains with ``python train.py`` and measures with ``python detect.py``, each command shown before it runs; what lies in
FOLDER already is not made again.

- ``novelty``: clothes against digits, and against the same clothes upside down; AUROC.
- ``defects``: artificial patches, scratches and erasures; AUROC of images and of pixels, AUPRO.
- ``classes``: each of ten classes is left out of training in turn and looked for among the others, after 500
  training steps; AUROC of each class, their mean, and the paired bootstrap of the difference of means to PCA and to
  the denoising autoencoder.
- ``textures``: brick, grass and gravel, each normal in turn and the other two anomalous; AUROC.

Numbers are means over seeds of training ± standard deviations; PCA and the classifier's patches have no seed, and of
classes and textures there is one seed each. Settings are the options' own, which were chosen on artificial defects and
on upside-down pictures of the validation part, and on 300 digits of which 15 are in the test.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from oboro.detection import AUROC, bootstrap_mean, difference
from oboro.sweep.job import read_result

HOUSE = Path(__file__).resolve().parent.parent
DATA = ["data=fashion_mnist_10k", "data.validation=1000", "data.test=1000", "data.num_classes=0", "data.seed=0"]
LEAN = ["metrics=[]", "callbacks=[throughput,checkpoints,progress]"]
SIZE = ["normals=500"]  # that calibrate; so many normal and anomalous samples are in a test
TEXTURES = ("brick", "grass", "gravel")
CROPS = ["data=textures", "data.resolution=32", "data.stride=8", "data.seed=0"]
MODELS = {
    "diffusion": ["conditioner=unconditional", "guidance=unguided"],
    "dae": ["task=denoising_autoencoder", "conditioner=unconditional"],
    "vae": ["experiment=vae_fashion", "conditioner=unconditional", "~conditioner.dropout"],
}
DETECTORS: dict[str, tuple[str | None, list[str]]] = {  # the model that is asked, and how
    "PCA": (None, ["detector=pca"]),
    "denoising autoencoder": ("dae", ["detector=denoising_error"]),
    "VAE": ("vae", ["detector=autoencoding"]),
    "denoising error": ("diffusion", ["detector=denoising_error"]),
    "partial diffusion": ("diffusion", ["detector=partial_diffusion"]),
    "DDAD": ("diffusion", ["detector=partial_diffusion", "guidance=ddad"]),
    "patches, denoiser": ("diffusion", ["detector=patch_core"]),
    "patches, classifier": (None, ["detector=patch_core_fashion"]),
}
TESTS = {"digits": ["anomalies=other_digits", "anomalies.n=500"], "flipped": ["anomalies=flipped"]}
LOCAL = ["anomalies=defects"]
LEFT_OUT = ["anomalies=labelled", "anomalies.n=500"]
SHORT = ("trainer.max_steps=500",)
BASELINES = ("PCA", "denoising autoencoder")
OF_CLASSES = ("denoising error", *BASELINES)
OF_TEXTURES = (*OF_CLASSES, "patches, denoiser")


def run(script: str, folder: Path, arguments: list[str], made: str) -> Path:
    """The folder of a command that has been run, if ``made`` is there now or before."""
    if not (folder / made).exists():
        print(" ".join(["python", script, *arguments]), flush=True)
        command = [sys.executable, str(HOUSE / script), *arguments, f"hydra.run.dir={folder}", "overwrite=true"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def detected(
    folder: Path, detector: str, seed: int, test: list[str], data: list[str], name: str, training: tuple[str, ...] = ()
) -> Path:
    """The folder of the measurement of a detector, whose model is trained if it is not there."""
    model, command = DETECTORS[detector]
    of = [*data]
    if model is not None:
        typed = [*MODELS[model], *data, *LEAN, *training, f"seed={seed}"]
        last = (
            run("train.py", folder / f"{model}-{name}-{seed}", typed, "checkpoints/last.ckpt") / "checkpoints/last.ckpt"
        )
        of = [f"checkpoint={last}"]
    place = folder / f"{detector.replace(', ', '-').replace(' ', '-')}-{name}-{'-'.join(test)}-{seed}".replace("=", "-")
    return run("detect.py", place, [*of, *command, *SIZE, *test, f"seed={seed}"], "detection.json")


def seeds_of(detector: str, seeds: int) -> range:
    return range(seeds if DETECTORS[detector][0] is not None else 1)


def cell(values: list[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def numbers(folder: Path, detector: str, seeds: int, test: list[str]) -> list[dict[str, float]]:
    places = [detected(folder, detector, seed, test, DATA, "all") for seed in seeds_of(detector, seeds)]
    return [read_result(place / "result.json")[0] for place in places]


def novelty(folder: Path, seeds: int) -> list[str]:
    lines = [f"| | {' | '.join(TESTS)} | ms | evaluations |", "|---" * (len(TESTS) + 3) + "|"]
    for detector in DETECTORS:
        rows = {test: numbers(folder, detector, seeds, command) for test, command in TESTS.items()}
        cells = [cell([row["auroc"] for row in found]) for found in rows.values()]
        last = rows["flipped"][-1]
        cost = [f"{last['cost_milliseconds']:.3g}", f"{last['cost_evaluations']:.3g}"]
        lines.append(f"| {' | '.join([detector, *cells, *cost])} |")
    return lines


def defects(folder: Path, seeds: int) -> list[str]:
    shown = ("auroc", "pixel_auroc", "aupro_0.3", "f1", "fpr")
    lines = [f"| | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for detector in DETECTORS:
        rows = numbers(folder, detector, seeds, LOCAL)
        lines.append(f"| {' | '.join([detector, *(cell([row[name] for row in rows]) for name in shown)])} |")
    return lines


def classes(folder: Path, seeds: int) -> list[str]:
    """One seed of training for each class: the bootstrap is over pictures and over classes."""
    lines = [f"| class left out | {' | '.join(OF_CLASSES)} |", "|---" * (len(OF_CLASSES) + 1) + "|"]
    measures: dict[str, list[AUROC]] = {detector: [] for detector in OF_CLASSES}
    strata = []
    for left_out in range(10):
        data = [*DATA, f"data.left_out=[{left_out}]"]
        for detector in OF_CLASSES:
            place = detected(folder, detector, 0, LEFT_OUT, data, f"without-{left_out}", SHORT)
            scores, anomalous = read_scores(place / "scores.csv")
            measures[detector].append(AUROC(scores, anomalous))
        strata.append(anomalous)
        lines.append(f"| {left_out} | {' | '.join(f'{measures[d][-1]():.3f}' for d in OF_CLASSES)} |")
    means = {d: bootstrap_mean(measures[d], strata) for d in OF_CLASSES}
    lines.append(f"| mean | {' | '.join(f'{i.value:.3f} ({i.low:.3f} to {i.high:.3f})' for i in means.values())} |")
    ours = measures[OF_CLASSES[0]]
    for baseline in BASELINES:
        pairs = [difference(a, b) for a, b in zip(ours, measures[baseline], strict=True)]
        gain = bootstrap_mean(pairs, strata)
        lines.append(f"\nabove {baseline}: {gain.value:.3f} ({gain.low:.3f} to {gain.high:.3f})")
    return lines


def textures(folder: Path, seeds: int) -> list[str]:
    lines = [f"| normal | {' | '.join(OF_TEXTURES)} |", "|---" * (len(OF_TEXTURES) + 1) + "|"]
    for normal, name in enumerate(TEXTURES):
        data = [*CROPS, f"data.left_out={[i for i in range(len(TEXTURES)) if i != normal]}".replace(" ", "")]
        found = [
            read_result(detected(folder, detector, 0, LEFT_OUT, data, name, SHORT) / "result.json")[0]["auroc"]
            for detector in OF_TEXTURES
        ]
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in found)} |")
    return lines


def read_scores(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return np.array([float(row["score"]) for row in rows]), np.array([row["anomalous"] == "1" for row in rows])


TABLES = {"novelty": novelty, "defects": defects, "classes": classes, "textures": textures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.tables:
        print("\n".join(["", name, *TABLES[name](arguments.folder.resolve(), arguments.seeds)]))


if __name__ == "__main__":
    main()
