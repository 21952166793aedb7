"""The folder of a run: what it holds, and how a command comes to own it before anything is written.

A folder has one run. One that is named by the clock is created by the run that gets it. One that is named by the user
and has a run already is refused, unless that run shall go on (``resume``) or shall make room (``overwrite=true``).
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import count
from pathlib import Path

from oboro.base.errors import UserError
from oboro.cli.running import Record, is_running, read_record

# What the commands write, besides what Hydra does; tests/cli/test_folders.py holds it against runs.
WRITES = {
    "train": (
        *("checkpoints", "snapshots", "samples", "reconstructions", "tensorboard", "result.json"),
        *("metrics.jsonl", "metrics.superseded.jsonl", "diverged.jsonl"),
    ),
    "sample": ("images", "series", "measured", "truth", "grid.png", "samples.npz", "previews.png"),
    "edit": ("images", "series", "grid.png"),
    "detect": (
        *("detector.yaml", "detector.pt", "detection.json", "result.json", "scores.csv", "maps", "overlays"),
        "examples.png",
    ),
    "evaluate": ("evaluation.json", "result.json", "samples.png", "compared.png", "closest_pairs.png"),
}
OF_A_SWEEP = (
    *("jobs.json", "multirun.yaml", "optimization_results.yaml"),
    *("benchmark.csv", "benchmark.json", "pareto.png", "strip.png", "curve.png"),
)
AUTO = "auto"  # resume=auto: the run of the folder
RECORD = ".hydra"  # the configuration of the run, which Hydra writes
ASIDE = ".overwritten"  # hidden: what measures or trains on the folder does not see it
TAIL = 65_536  # bytes of a log in which the last step is looked for
ANOTHER = "choose another folder with hydra.run.dir=<folder>"


class State(StrEnum):
    """Of a folder: nothing of a run; a run is going on; it has ended, somehow; it came to its planned end."""

    EMPTY, RUNNING, USED, FINISHED = "empty", "running", "used", "finished"


@dataclass(frozen=True)
class Contents:
    """What a folder holds: its state, the command that wrote there, the names of what it wrote, when it started (None
    where nothing says that it ran), the last step that was logged."""

    state: State
    command: str | None = None
    files: tuple[str, ...] = ()
    started: str | None = None
    step: int | None = None

    @property
    def words(self) -> str:
        """``a run of train (2026-01-31 12:00, logged up to step 300)``; of files without a run their names."""
        if self.started is None:
            return f"{', '.join(self.files)} already, which {self.command} writes"
        step = f", logged up to step {self.step}" if self.step is not None else ""
        return f"a run of {self.command} ({self.started}{step})"


def contents(folder: Path, command: str) -> Contents:
    """What ``folder`` holds, as ``command`` has to know it."""
    if is_running(folder):
        record = read_record(folder)
        return Contents(State.RUNNING, record and record.command, (), record and record.since)
    return remains(folder, command)


def remains(folder: Path, command: str) -> Contents:
    """What runs that have ended left in ``folder``. Files of another command count where it left a log, too."""
    record = read_record(folder)
    ran = next((name for name in ordered(command, record) if wrote(folder, name, command)), None)
    if ran is None:
        return Contents(State.EMPTY)
    state = State.FINISHED if record is not None and record.finished else State.USED
    started = record.since if record else date_of(folder, ran)
    return Contents(state, ran, tuple(written(folder, ran)), started, last_step(folder))


def ordered(command: str, record: Record | None) -> list[str]:
    """The commands that may have run: the one of the record, this one, the others."""
    first = [record.command] if record is not None and record.command in WRITES else []
    return list(dict.fromkeys([*first, command, *WRITES]))


def wrote(folder: Path, name: str, command: str) -> bool:
    """Whether the command ``name`` has left files in ``folder``."""
    known = name == command or (folder / f"{name}.log").exists()
    return known and any(True for _ in written(folder, name))


def written(folder: Path, name: str) -> Iterator[str]:
    return (entry for entry in WRITES[name] if has_files(folder / entry))


def has_files(path: Path) -> bool:
    """Whether there is a file at or below ``path``."""
    if not path.is_dir() or path.is_symlink():
        return os.path.lexists(path)
    return any(files for _, _, files in os.walk(path))


def date_of(folder: Path, command: str) -> str | None:
    """When a run without a record of its own started; None where it left neither configuration nor log."""
    for path in (folder / RECORD / "config.yaml", folder / f"{command}.log"):
        if path.exists():
            return datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", timespec="minutes")
    return None


def last_step(folder: Path) -> int | None:
    """The step of the last row of ``metrics.jsonl``."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            rows = file.read().splitlines()
    except OSError:
        return None
    for row in reversed(rows):
        try:
            return int(json.loads(row)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def create(folder: Path) -> Path:
    """``folder``, or ``folder-2`` and so on where it exists: made by this call alone, also beside other machines that
    share the file system."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for path in (folder if k == 1 else folder.with_name(f"{folder.name}-{k}") for k in count(1)):
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
    raise AssertionError  # counting does not end


def refuse_used(folder: Path, command: str, going_on: str | None, overwrite: bool) -> None:
    """Raises ``UserError`` where ``folder`` is no place for a run of ``command``.

    ``going_on`` is the value of ``resume``: ``auto``, or the path of a checkpoint, which may be that of the folder's
    own run.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; {ANOTHER}")
    held = remains(folder, command)
    if held.state is State.EMPTY:
        return
    if held.command != command:
        raise UserError(f"{folder} has {held.words}, and a folder is for one run; {ANOTHER}")
    if overwrite or going_on == AUTO or (going_on is not None and belongs(going_on, folder)):
        return
    room = f"overwrite=true to start over (what is there moves to {ASIDE})"
    if going_on is not None:
        raise UserError(f"{folder} has {held.words}, and resume={going_on} is of another; {ANOTHER}, or add {room}")
    ways = f"resume=auto to go on, {room}" if command == "train" else room
    raise UserError(f"{folder} has {held.words}; add {ways}, or {ANOTHER}")


def belongs(checkpoint: str, folder: Path) -> bool:
    """Whether the checkpoint, or the run's folder that stands for one, is in ``folder``."""
    return Path(checkpoint).expanduser().resolve().is_relative_to(folder.resolve())


def entries(folder: Path, command: str) -> list[Path]:
    """What ``command`` wrote to ``folder``, and its record."""
    logs = [f"{command}.log", f"{command}_ddp_process_*.log"]
    of_hydra = [entry for name in (RECORD, *logs) for entry in sorted(folder.glob(name))]
    return [*written_entries(folder, command), *of_hydra]


def written_entries(folder: Path, command: str) -> list[Path]:
    """What the work of ``command`` wrote to ``folder``."""
    return [entry for name in WRITES[command] for entry in sorted(folder.glob(name))]


def moved_aside(folder: Path, entries: list[Path]) -> Path | None:
    """Move ``entries`` of ``folder`` to ``.overwritten/<k>`` there. Where that is; None where there were none.

    Nothing is deleted, and files of others stay where they are.
    """
    if not entries:
        return None
    (folder / ASIDE).mkdir(exist_ok=True)
    aside = folder / ASIDE / str(next(k for k in count(1) if not (folder / ASIDE / str(k)).exists()))
    aside.mkdir()
    for entry in entries:
        entry.rename(aside / entry.name)
    return aside


def sweep_entries(folder: Path) -> Iterator[Path]:
    """What a sweep left in ``folder``: its account, its tables, and the folders of its jobs."""
    for name in OF_A_SWEEP:
        if (folder / name).exists():
            yield folder / name
    for path in sorted(folder.glob("*")):
        if path.name != ASIDE and path.is_dir() and any(RECORD in folders for _, folders, _ in os.walk(path)):
            yield path
