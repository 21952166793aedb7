"""Fréchet distance against seconds of training: oboro's first run, diffusers' and lucidrains' recipes on Fashion-MNIST.

    pip install -e ".[benchmark]"
    python benchmarks/quality.py FOLDER --seconds 75 150 300 600

``benchmarks/trainers`` has a file for each recipe. All train in one thread on the same 59,000 pictures and are measured
on 2,000 samples of their averaged weights against these in the ``fashion`` features; seconds are those of one CPU core.
What lies in FOLDER already is not done again. FOLDER/distance.png is the picture.
"""

import argparse
import json
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from trainers import diffusers_script, lucidrains
from trainers.first_run import first_run
from trainers.point import Given

from oboro.data import FashionMNIST
from oboro.extractor import Fashion
from oboro.metrics import Extracted, Frechet, look_at, measure

CONTENDERS = {
    "oboro": first_run(),
    "oboro, without labels": first_run("conditioner=unconditional", "guidance=unguided"),
    "oboro, Muon": first_run("optimizer=muon"),
    "diffusers": diffusers_script.points,
    "lucidrains": lucidrains.points,
}
SAMPLES = 2000


def data() -> FashionMNIST:
    """That of ``data=fashion_mnist data.seed=0``."""
    module = FashionMNIST(
        part="train", channels=1, resolution=28, num_classes=10, batch_size=32, validation=1000, seed=0
    )
    module.prepare_data()
    module.setup()
    return module


def rows_of(name: str, marks: list[float], folder: Path, module: FashionMNIST) -> list[dict]:
    """Measured once: a line for each mark."""
    lines = folder / f"{name}.jsonl"
    if lines.exists():
        return [json.loads(line) for line in lines.read_text().splitlines()]
    work = folder / name
    work.mkdir(parents=True)
    train, extractor = module.train.samples, Fashion()
    reference = Extracted(extractor, ["features"], train, None, train.fingerprint, "train", module.cache_dir)
    torch.manual_seed(0)
    rows = []
    for point in CONTENDERS[name](Given(train[torch.arange(len(train))], marks, work)):
        values = measure({"frechet": Frechet()}, extractor, look_at(point.draw(SAMPLES), extractor), reference)
        ((_, value),) = values.items()
        rows.append({"who": name, "seconds": point.seconds, "images": point.images, "distance": value.value})
        print(json.dumps(rows[-1]), flush=True)
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def picture(lines: dict[str, list[dict]], path: Path) -> None:
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, rows in lines.items():
        axes.plot([r["seconds"] for r in rows], [r["distance"] for r in rows], "o-", label=name, markersize=4)
    ticks = sorted({round(row["seconds"]) for rows in lines.values() for row in rows})
    axes.set(xscale="log", yscale="log", xlabel="seconds of training, one core", ylabel="Fréchet distance (fashion)")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(values := [2, 5, 10, 20, 50, 100, 200, 400], [str(v) for v in values])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, nargs="+", default=[75.0, 150.0, 300.0, 600.0])
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    module = data()
    lines = {name: rows_of(name, sorted(arguments.seconds), folder, module) for name in arguments.only}
    for row in (row for rows in lines.values() for row in rows):
        print(json.dumps(row))
    picture(lines, folder / "distance.png")


if __name__ == "__main__":
    main()
