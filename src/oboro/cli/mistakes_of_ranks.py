"""Mistakes that ranks meet which another program has started (torchrun, srun): each is shown once, whoever meets it.

Most are met by all of them, and the first process of each machine shows it. Another one waits for a moment whether it
does; a mistake that it alone meets, it shows itself. They know of each other by small files, named after the program
that has started them and after what is shown. The last one that meets a mistake removes its file; those that not all
have met go with the next mistake, once that program is gone.
"""

import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

WAIT = 3.0  # seconds in which the first process would meet it, too
POLL = 0.1
NAME = "oboro-mistake-"


def is_first_process() -> bool:
    """Whether no other process of this run on this machine comes before this one."""
    if "LOCAL_RANK" in os.environ:
        return os.environ["LOCAL_RANK"] == "0"
    return not of_slurm() or os.environ.get("SLURM_LOCALID", "0") == "0"


def of_slurm() -> bool:
    return int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1


def of_others() -> bool:
    """Whether torchrun or srun has started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ or of_slurm()


def global_rank() -> str:
    return os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "0")


def to_show(message: str) -> str | None:
    """What this process is to show of a mistake that it met; None where another one shows it."""
    if not of_others():
        return message if is_first_process() else None  # of ranks that the first one started, it names the mistake
    mark = _mark(message)
    _clear_left()
    if is_first_process():
        _meet(mark)
        return message
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if mark.exists():
            _meet(mark)
            return None
        time.sleep(POLL)
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        _meet(mark)
        return None
    except OSError:  # better twice than not at all
        pass
    _meet(mark)
    return f"rank {global_rank()}: {message}"


def _mark(message: str) -> Path:
    parent = os.getppid()
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = hashlib.sha256(repr((again, message)).encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"{NAME}{parent}-{_start_of(parent)}-{name}"


def _start_of(process: int | str) -> str:
    """When it was started: numbers of processes come again. Empty where it is gone, or no system says so."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _meet(mark: Path) -> None:
    """This process has met the mistake. The last one of its machine removes the file."""
    with suppress(OSError, ValueError):
        with mark.open("ab") as file:
            file.write(b".")
        if 0 < int(os.environ.get("LOCAL_WORLD_SIZE", "0")) <= mark.stat().st_size:
            mark.unlink()


def _clear_left() -> None:
    """Remove the files of programs that are gone."""
    for path in Path(tempfile.gettempdir()).glob(f"{NAME}*-*-*") if Path("/proc/self/stat").exists() else ():
        process, started = path.name.removeprefix(NAME).split("-")[:2]
        if _start_of(process) != started:
            with suppress(OSError):  # of another user
                path.unlink()
