"""The process of a job: a session of its own, which ends as a whole."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path

from oboro.sweep.job import LOG

GRACE = 10.0  # seconds in which the other ranks of a job that succeeded may finish
PATIENCE = 15.0  # seconds in which a job that gets SIGTERM may save what it has
# What another run may have left, which Lightning takes as a sign that somebody else starts the ranks; PL_TRAINER_* are
# a user's defaults and stay. HYDRA_FULL_ERROR is set by the entry points for their own use.
LEFTOVERS = re.compile(
    r"((LOCAL_|GROUP_|NODE_|ROLE_)?RANK|((LOCAL|GROUP|ROLE)_)?WORLD_SIZE|ROLE_NAME|MASTER_ADDR|MASTER_PORT"
    r"|TORCHELASTIC_.*|PL_(?!TRAINER_).*|HYDRA_FULL_ERROR)"
)


class Process:
    """Starts ``command`` in the folder ``cwd``; its output goes to ``output.log`` in ``folder``.

    It leads a session and a process group, to which the ranks and data loaders that it starts belong. ``lock`` is a
    file descriptor that it holds open as long as it lives.
    """

    def __init__(self, command: list[str], folder: Path, cwd: Path, environment: dict[str, str], lock: int):
        self.folder, self.port = folder, int(environment["MASTER_PORT"])
        self._start = time.monotonic()
        self._end: float | None = None
        self._terminated: float | None = None
        with (folder / LOG).open("wb") as log:
            self._popen = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock],
            )

    @property
    def seconds(self) -> float:
        return (self._end or time.monotonic()) - self._start

    @property
    def alive(self) -> bool:
        """Whether the first process of the group has not ended yet."""
        if self._end is None and self._popen.poll() is not None:
            self._end = time.monotonic()
        return self._end is None

    def ended(self) -> int | None:
        """The exit status once nothing of the group is left; the rest of a group whose leader failed is killed."""
        if self.alive or self._end is None:
            return None
        if self._popen.returncode == 0 and self._group_exists() and time.monotonic() < self._end + GRACE:
            return None
        self.kill()
        return self._popen.returncode

    @property
    def terminated(self) -> bool:
        """Whether ``terminate`` was called, which it may not have followed yet."""
        return self._terminated is not None

    def terminate(self) -> None:
        """Have its first process end in order, and the others with it; once. One that takes too long is killed."""
        if self._terminated is None:
            self._terminated = time.monotonic()
            if self.alive:
                self._popen.terminate()
        elif time.monotonic() > self._terminated + PATIENCE:
            self.kill()

    def kill(self) -> int:
        """End the whole group at once; the exit status of its first process."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left of it
            os.killpg(self._popen.pid, signal.SIGKILL)
        return self._popen.wait()

    def _group_exists(self) -> bool:
        try:
            os.killpg(self._popen.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def program() -> list[str]:
    """What starts this program again: ``python script.py``, or ``python -m module`` where it was started so."""
    spec, script = sys.modules["__main__"].__spec__, os.path.abspath(sys.argv[0])
    if spec is not None and spec.origin == script:
        return [sys.executable, "-m", spec.name]
    return [sys.executable, script]


def environment(port: int, devices: list[str]) -> dict[str, str]:
    """This process's environment for a job of its own: a port, its GPUs if any are named, no trace of another run."""
    kept = {name: value for name, value in os.environ.items() if not LEFTOVERS.fullmatch(name)}
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
    # Unbuffered: a job that is killed leaves all its output.
    return {**kept, **visible, "MASTER_PORT": str(port), "PYTHONUNBUFFERED": "1"}


def free_port(taken: Collection[int]) -> int:
    """A port that nobody listens on and that is not in ``taken``: ports of jobs which have not got to listening yet."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in taken:
            return port
