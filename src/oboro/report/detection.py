"""What a detector found: a table, and pictures of where."""

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image as Pillow
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from oboro.anomalies import TestSet
from oboro.base.json_text import json_text
from oboro.base.settings import settings_text
from oboro.detection import Calibration, Interval
from oboro.evaluate.detection import Report
from oboro.modality import Image, Modality
from oboro.report.table import WIDE, write_result

COLOURS = matplotlib.colormaps["inferno"]
BORDER = (0, 200, 255)  # of what lies above the threshold of places
MASK = (0, 200, 80)
LEAST = 192  # pixels of a side of an overlay: small pictures are enlarged
EXAMPLES = 12  # samples in the picture of a test set


def heat(places: Tensor, calibration: Calibration) -> np.ndarray:
    """A map in [0, 1]: 0 for what is at most as usual for normal places, 1/2 at the threshold of places, 1 at twice
    that."""
    top = max(calibration.place_threshold or 0.0, 1e-6)
    return (places.float() / (2 * top)).clamp(0, 1).numpy()


def shade(places: Tensor, calibration: Calibration) -> Pillow.Image:
    """A map (H, W) as a grey picture of the size of the sample."""
    return Pillow.fromarray((heat(places, calibration) * 255).round().astype(np.uint8))


def overlay(modality: Image, stored: Tensor, places: Tensor, calibration: Calibration) -> Pillow.Image:
    """A stored picture (C, H, W) with its map laid over it, and a line around what lies above the threshold of
    places."""
    factor = max(1, -(-LEAST // min(places.shape)))
    size = (places.shape[1] * factor, places.shape[0] * factor)
    picture = np.asarray(modality.picture(stored[None], 1).convert("RGB").resize(size, Pillow.Resampling.NEAREST))
    large = np.asarray(Pillow.fromarray(heat(places, calibration)).resize(size, Pillow.Resampling.BICUBIC)).clip(0, 1)
    opacity = 0.75 * large[..., None]
    page = picture / 255 * (1 - opacity) + COLOURS(large)[..., :3] * opacity
    page = (page * 255).round().astype(np.uint8)
    page[border(large > 0.5)] = BORDER
    return Pillow.fromarray(page)


def border(inside: np.ndarray) -> np.ndarray:
    """The pixels of ``inside`` (H, W) that have a neighbour outside."""
    around = np.pad(inside, 1, mode="edge")
    return inside & ~(around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:])


def write_report(
    folder: Path,
    report: Report,
    test_set: TestSet,
    scores: Tensor,
    maps: Tensor | None,
    calibration: Calibration,
    modality: Modality,
) -> None:
    """``detection.json``, ``result.json``, ``scores.csv`` and, of pictures with maps, ``examples.png``."""
    (folder / "detection.json").write_text(json_text(report.plain(), indent=2) + "\n")
    write_result(folder, {**report.numbers, **{f"cost_{name}": value for name, value in report.cost.items()}})
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("name", "kind", "anomalous", "score", "rejected"))
        for name, kind, anomalous, score in zip(
            test_set.names, test_set.kinds, test_set.anomalous.tolist(), scores.tolist(), strict=True
        ):
            table.writerow((name, kind, int(anomalous), f"{score:.6g}", int(score > calibration.threshold)))
    if maps is not None and isinstance(modality, Image):
        examples(modality, test_set, scores, maps, calibration).save(folder / "examples.png")


def examples(
    modality: Image, test_set: TestSet, scores: Tensor, maps: Tensor, calibration: Calibration
) -> Pillow.Image:
    """Samples of each kind in turn, from the first to the last: above as they are, the anomalous places framed where
    they are known, below with their maps."""
    columns = []
    for row in in_turn(test_set.kinds, EXAMPLES):
        plain = overlay(modality, test_set.samples[row], torch.zeros_like(maps[row]), calibration)
        if test_set.masks is not None and test_set.anomalous[row]:
            pixels = np.array(plain)
            mask = Pillow.fromarray(test_set.masks[row].numpy()).resize(plain.size, Pillow.Resampling.NEAREST)
            pixels[border(np.asarray(mask))] = MASK
            plain = Pillow.fromarray(pixels)
        columns.append((plain, overlay(modality, test_set.samples[row], maps[row], calibration)))
    width, height = columns[0][0].size
    page = Pillow.new("RGB", ((width + 4) * len(columns) - 4, 2 * height + 4), "white")
    for k, pair in enumerate(columns):
        for line, picture in enumerate(pair):
            page.paste(picture, (k * (width + 4), line * (height + 4)))
    return page


def in_turn(kinds: Sequence[str], count: int) -> list[int]:
    """``count`` rows, of each kind as many, as far as there are some."""
    rows = {kind: [i for i, other in enumerate(kinds) if other == kind] for kind in dict.fromkeys(kinds)}
    chosen: list[int] = []
    while len(chosen) < min(count, len(kinds)):
        for left in rows.values():
            if left and len(chosen) < count:
                chosen.append(left.pop(0))
    return sorted(chosen, key=lambda i: (list(rows).index(kinds[i]), i))


def print_report(report: Report, title: str) -> None:
    """The metrics, the kinds of anomalies, the cost and the protocol on stdout."""
    console = Console()
    console.print(title, markup=False, highlight=False, soft_wrap=True, style="italic")
    table = Table("metric", *(Column(text, justify="right") for text in ("value", "95 %")))
    for name, interval in report.metrics.items():
        table.add_row(name, *shown(interval))
    console.print(table, width=None if console.is_terminal else WIDE)
    kinds = Table("kind", *(Column(text, justify="right") for text in ("samples", "AUROC", "95 %", "recall")))
    for kind, row in report.kinds.items():
        cells = (*shown(row["auroc"]), f"{row['recall']:.3f}") if "auroc" in row else ("", "", "")
        kinds.add_row(kind, str(row["samples"]), *cells)
    console.print(kinds, width=None if console.is_terminal else WIDE)
    p = report.protocol
    line = ", ".join(
        (
            settings_text(p["detector"]),
            *(settings_text(p[part]) for part in ("sampler", "guidance", "schedule") if part in p),
            f"threshold {p['threshold']:.4g} of {p['normals']['validation']} validation normals",
            f"{p['samples']} samples of {settings_text(p['anomalies'])}, seed {p['seed']}",
            f"{report.cost['milliseconds']:.3g} ms and {report.cost['evaluations']:.4g} evaluations a sample",
            f"{p['precision']} on {p['device']}",
        )
    )
    console.print(line, markup=False, highlight=False, soft_wrap=True, style="dim italic")


def shown(interval: Interval) -> tuple[str, str]:
    return f"{interval.value:.3f}", f"{interval.low:.3f} to {interval.high:.3f}"
