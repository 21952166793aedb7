"""A run owns its folder before Hydra writes to it: ``hydra.callbacks.claim`` of the primary configurations.

Of the processes of one run the first alone owns the folder. Ranks that Lightning starts get its name from the first
one; those that another program starts (torchrun, srun) run Hydra each, and must be given one name.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from oboro.base.errors import UserError
from oboro.base.grammar import is_true, quoted
from oboro.base.whole_file import remove
from oboro.cli.folder import (
    ANOTHER,
    AUTO,
    RECORD,
    State,
    create,
    entries,
    has_files,
    moved_aside,
    refuse_used,
    remains,
    sweep_entries,
    written_entries,
)
from oboro.cli.running import mark, owned, release, take
from oboro.sweep.sweep import LOG

CLOCK = "${now"
_moved: dict[Path, Path] = {}  # of the folders of runs of this process, where what they held before is
_moved_sweep: dict[Path, Path] = {}  # the same of sweeps


class Refused(BaseException):
    """Why a run cannot have its folder. No ``Exception``: of those that its callbacks raise, Hydra makes warnings."""

    def __init__(self, error: Exception):
        self.error = error


class FolderKnown(BaseException):
    """``resume=auto`` in a folder that only the composed configuration names."""

    def __init__(self, folder: Path):
        self.folder = folder


class Claim(Callback):
    """What Hydra calls before it writes the configuration and the log of ``command``."""

    def __init__(self, command: str):
        self.command = command

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        passing(lambda: claim_run(config, self.command))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        passing(lambda: claim_sweep(config, self.command))


def passing(action: Callable[[], None]) -> None:
    try:
        action()
    except Exception as error:
        raise Refused(error) from None


def claim_run(config: DictConfig, command: str) -> None:
    """Own the folder of a single run. Raises ``UserError`` where it has a run already."""
    several = processes(config, command)
    if follows(command, config):
        if several > 1:
            writes_nothing(config)
        return
    named, folder = written(config, "run"), resolved(config, "run")
    going_on, overwrite = config.get("resume"), is_true(config.get("overwrite"))
    if CLOCK in named:
        if several > 1:
            raise UserError(
                f"{several} processes share this run, and each would name another folder by the clock; give all of "
                "them one, with hydra.run.dir=<folder>"
            )
        if going_on == AUTO:
            raise UserError("resume=auto goes on with the run of a folder; name it with hydra.run.dir=<folder>")
        folder = renamed(config, "run", folder)
    elif going_on == AUTO:
        raise FolderKnown(folder)
    own(folder, command, going_on, overwrite, OmegaConf.to_container(config.hydra.overrides.task))
    began = (folder / RECORD / "config.yaml").is_file()
    if going_on and began and CLOCK not in named and config.hydra.output_subdir == RECORD:
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.output_subdir = f"{RECORD}/resumed"  # how the run began stays


def own(folder: Path, command: str, going_on: str | None, overwrite: bool, words: Sequence[str] = ()) -> None:
    """Take ``folder`` for ``command``, and make room in it where that is meant. Raises ``UserError``."""
    if owned(folder):
        return
    if overwrite and going_on is not None:
        raise UserError("overwrite=true starts over and resume goes on; leave one of the two out")
    made(folder)
    take(folder, command, lambda: refuse_used(folder, command, going_on, overwrite))
    if overwrite:
        old = entries(folder, command)
        refuse_needed(old, words)
        if aside := moved_aside(folder, old):
            _moved[folder.resolve()] = aside
            show_moved(aside)


def refuse_needed(old: Sequence[Path], words: Sequence[str]) -> None:
    """Raises ``UserError`` where the command line names one of the files that are to make room."""
    for key, _, value in (word.partition("=") for word in words):
        path = Path(value.strip("\"'")).expanduser().resolve()
        if value and any(path.is_relative_to(entry.resolve()) for entry in old):
            raise UserError(f"{key} names a file that overwrite=true moves away; copy it to another folder first")


def give_back(folder: Path, command: str) -> None:
    """Put what made room back in its place, where a run ends before it has written anything: of a mistake in its
    configuration, for example."""
    aside = _moved.pop(folder.resolve(), None)
    if aside is None or any(has_files(path) for path in written_entries(folder, command)):
        return
    put_back(folder, aside, entries(folder, command), "run")


def give_sweep_back() -> None:
    """The same for a sweep that ends before it has started a job."""
    for folder, aside in _moved_sweep.items():
        own = list(sweep_entries(folder))
        if all(entry.is_file() for entry in own) and not any(folder.glob(f"[!.]*/**/{LOG}")):
            put_back(folder, aside, own, "sweep")
    _moved_sweep.clear()


def put_back(folder: Path, aside: Path, instead: Sequence[Path], what: str) -> None:
    """The files in ``aside`` are in ``folder`` again, and those that were written ``instead`` are gone."""
    with suppress(OSError):
        for entry in instead:
            remove(entry)
        for entry in aside.iterdir():
            entry.rename(folder / entry.name)
        aside.rmdir()
        print(f"the {what} has not begun: what {folder} held is back in it", file=sys.stderr)
        aside.parent.rmdir()  # unless it has more


def show_moved(aside: Path) -> None:
    print(f"what the folder held is in {aside} now", file=sys.stderr)


def claim_sweep(config: DictConfig, command: str) -> None:
    """Own the folder of a sweep. Raises ``UserError`` where it has a run or a sweep already."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return  # a rank of a job that runs within the process of the sweep
    if not alone(command, config) and started_together() > 1:
        raise UserError("a sweep starts its jobs by itself; start it once, without torchrun or srun")
    named, folder = written(config, "sweep"), resolved(config, "sweep")
    going_on, overwrite = config.get("resume"), is_true(config.get("overwrite"))
    if CLOCK in named:
        if going_on == AUTO:
            raise UserError("resume=auto goes on with the jobs of a folder; name it with hydra.sweep.dir=<folder>")
        folder = renamed(config, "sweep", folder)
    made(folder)

    def check() -> None:
        if remains(folder, command).state is not State.EMPTY:
            raise UserError(f"{folder} has a run; choose another folder with hydra.sweep.dir=<folder>")
        if any(sweep_entries(folder)) and not overwrite and going_on != AUTO:
            go_on = "add resume=auto to go on with its jobs, " if command == "train" else ""
            raise UserError(
                f"{folder} has a sweep; run its failed jobs again with rerun_failed={folder}, {go_on}overwrite=true to "
                "start over (what is there moves to .overwritten), or choose another folder with hydra.sweep.dir="
                "<folder>"
            )

    take(folder, command, check)
    if overwrite and (aside := moved_aside(folder, list(sweep_entries(folder)))):
        _moved_sweep[folder] = aside
        show_moved(aside)


@contextmanager
def claimed(command: str, config: DictConfig) -> Iterator[None]:
    """The block is the job in the folder that Hydra made. It is given back at the end.

    A job within the process of a sweep, and one whose configuration lacks the callback, owns it from here on. The sweep
    has made room for its jobs, whose folders hold what Hydra wrote just now.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if follows(command, config):
        yield
        return
    overwrite = is_true(config.get("overwrite")) and HydraConfig.get().mode != RunMode.MULTIRUN
    own(folder, command, config.get("resume"), overwrite)
    try:
        yield
        mark(folder, finished=True)
    except BaseException:
        give_back(folder, command)
        raise
    finally:
        _moved.pop(folder.resolve(), None)
        release(folder)


def written(config: DictConfig, mode: str) -> str:
    """``hydra.run.dir`` or ``hydra.sweep.dir``, before what it interpolates."""
    return str(OmegaConf.to_container(config.hydra[mode], resolve=False)["dir"])


def resolved(config: DictConfig, mode: str) -> Path:
    """The folder, as Hydra will find it."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)  # for ${hydra:...}
    try:
        return Path(os.path.abspath(str(config.hydra[mode].dir)))
    finally:
        HydraConfig.instance().cfg = before


def renamed(config: DictConfig, mode: str, folder: Path) -> Path:
    """A folder that was made now, for Hydra to use: ``folder`` or one beside it."""
    try:
        chosen = create(folder)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; {ANOTHER}") from error
    if chosen != folder:
        text = written(config, mode).rstrip("/") + chosen.name.removeprefix(folder.name)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra[mode].dir = text
            config.hydra.overrides.hydra.append(f"hydra.{mode}.dir={quoted(str(chosen))}")  # jobs are composed anew
    return chosen


def made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = "it is a file" if folder.is_file() else error.strerror
        raise UserError(f"cannot make the folder {folder}: {what}; {ANOTHER}") from error


def processes(config: DictConfig, command: str) -> int:
    """How many processes others start for this one run: torchrun, srun, or a user on several hosts."""
    if alone(command, config):
        return 1
    nodes = config.trainer.get("num_nodes", 1) if command == "train" else 1
    return max(started_together(), nodes if isinstance(nodes, int) else 1)


def started_together() -> int:
    """How many processes torchrun or srun has started with this one."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def alone(command: str, config: DictConfig) -> bool:
    """Whether a run is one process, so that several that are started at once are several runs."""
    return command in ("sample", "edit", "detect") or (command == "evaluate" and config.get("devices", 1) == 1)


def follows(command: str, config: DictConfig) -> bool:
    """Whether this process is a rank of a run of which another process is the first."""
    return not alone(command, config) and is_follower()


def is_follower() -> bool:
    """Whether the environment names a rank that is not the first."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return os.environ.get("RANK", "0") != "0"
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return os.environ.get("SLURM_PROCID", "0") != "0"
    return any(os.environ.get(name, "0") != "0" for name in ("LOCAL_RANK", "NODE_RANK"))


def writes_nothing(config: DictConfig) -> None:
    """The first process writes the configuration and the log."""
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.output_subdir = None
        handlers = config.hydra.job_logging.get("root", {}).get("handlers", [])
        config.hydra.job_logging.root.handlers = [handler for handler in handlers if handler != "file"]
