"""Pictures of a folder, sorted into what is accepted and what is not."""

import csv
import glob
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from oboro.base.counted import counted
from oboro.base.errors import UserError, first_line
from oboro.base.remark import remark
from oboro.cli.files import listed
from oboro.detection import Calibration
from oboro.detector import Inspection
from oboro.modality import Image
from oboro.report.detection import overlay, shade

POLL = 0.2  # seconds between two looks at a folder
COLUMNS = ("name", "score", "threshold", "decision", "milliseconds")
ACCEPTED, REJECTED, UNREADABLE = "accepted", "rejected", "unreadable"


def sort_pictures(config: DictConfig, inspection: Inspection, calibration: Calibration) -> None:
    """A row of ``scores.csv``, a map and an overlay for each picture, as soon as its chunk is done.

    With ``follow`` pictures are taken one by one as they come, until none has come for that many seconds. One that
    cannot be read is named and ends nothing.
    """
    folder, modality = Path(config.output_dir), inspection.modality
    drawn = isinstance(modality, Image)
    for name in ("maps", "overlays") if drawn else ():
        (folder / name).mkdir(parents=True, exist_ok=True)
    decisions: Counter[str] = Counter()
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for number, files in arriving(config, inspection):
            readable, samples = [], []
            for path in files:
                try:
                    samples.append(modality.read_fitted(path))
                    readable.append(path)
                except UserError as error:
                    remark(f"{path.name} is left out: {first_line(error)}")
                    table.writerow([path.name, "", "", UNREADABLE, ""])
                    decisions[UNREADABLE] += 1
            if not samples:
                continue
            before = inspection.cost.seconds
            maps = inspection.maps(torch.stack(samples), number)
            took = 1000 * (inspection.cost.seconds - before) / len(samples)
            scores, places = calibration.scores(maps), calibration.map(maps)
            for k, path in enumerate(readable):
                decision = REJECTED if scores[k] > calibration.threshold else ACCEPTED
                decisions[decision] += 1
                row = [path.name, f"{scores[k]:.6g}", f"{calibration.threshold:.6g}", decision, f"{took:.1f}"]
                table.writerow(row)
                if drawn and places is not None:
                    shaded = shade(places[k], calibration)
                    shaded.save(folder / "maps" / f"{name_of(path)}.png")
                    over = overlay(modality, samples[k], places[k], calibration)
                    over.save(folder / "overlays" / f"{name_of(path)}.png")
                if config.follow:
                    print(", ".join((path.name, decision, f"score {scores[k]:.4g}")), flush=True)
            file.flush()
    of = sum(decisions.values())
    unread = f", {decisions[UNREADABLE]} cannot be read" if decisions[UNREADABLE] else ""
    cost = inspection.cost
    each = f"{cost.milliseconds:.3g} ms and {cost.evaluations_per_sample:.4g} evaluations of the network each"
    print(f"{decisions[REJECTED]} of {counted(of, modality.noun)} rejected{unread}; {each}; {folder / 'scores.csv'}")


def arriving(config: DictConfig, inspection: Inspection):
    """(number of the first, files) of each chunk: those of ``images`` by name, and with ``follow`` what comes later."""
    modality, place = inspection.modality, Path(str(config.images)).expanduser()
    seen: set[Path] = set()
    number, last = 0, time.monotonic()
    while True:
        files: Sequence[Path] = [path for path in now(config, modality, place) if path not in seen]
        for first in range(0, len(files), inspection.chunk):
            chunk = files[first : first + inspection.chunk]
            yield number, chunk
            number += len(chunk)
        seen |= set(files)
        if files:
            last = time.monotonic()
        if time.monotonic() - last >= config.follow:
            return
        time.sleep(POLL)


def name_of(path: Path) -> str:
    """That of the file, with its suffix where another one beside it differs in that alone."""
    return path.name if len(list(path.parent.glob(f"{glob.escape(path.stem)}.*"))) > 1 else path.stem


def now(config: DictConfig, modality, place: Path) -> list[Path]:
    """The files that are there. A folder that is followed may be empty, and files in it unfinished: those of the last
    moments wait."""
    if not config.follow:
        return listed("images", config.images, modality.suffixes, modality.noun)
    if not place.is_dir():
        raise UserError(f"follow waits for pictures in a folder and there is no folder {place}; set images=<a folder>.")
    files = sorted(file for file in place.glob("*") if file.suffix.lower() in modality.suffixes)
    return [file for file in files if time.time() - file.stat().st_mtime > POLL]
