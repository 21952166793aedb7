"""Mistakes that ranks meet which another program has started (torchrun, srun): each is shown once, whoever meets it.

Most are met by all of them, and the first process of each machine shows it. Another one waits for a moment whether it
does; a mistake that it alone meets, it shows itself. They know of each other by empty files, named after the program
that has started them and after what is shown.
"""

import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

WAIT = 3.0  # seconds in which the first process would meet it, too
POLL = 0.1


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
    if is_first_process():
        with suppress(OSError):
            mark.touch()
        return message
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if mark.exists():
            return None
        time.sleep(POLL)
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return None
    except OSError:  # better twice than not at all
        pass
    return f"rank {global_rank()}: {message}"


def _mark(message: str) -> Path:
    parent = os.getppid()
    started = ""
    with suppress(OSError, IndexError):  # numbers of processes come again
        started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = hashlib.sha256(repr((parent, started, again, message)).encode()).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"oboro-mistake-{name}"
