"""The processes of a run of several ranks on one machine: none is left alone, and the one that failed is named.

Lightning starts them, and ends all by SIGKILL, without a word, within five seconds of the end of any but the first.
Those that wait for a first one that is gone it leaves waiting. Here each watches the others.
"""

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import NoReturn

from oboro.base import interrupt
from oboro.base.errors import OwnFault, UserError
from oboro.base.secret import visible
from oboro.cli.error_messages import explain
from oboro.cli.mistakes_of_ranks import global_rank, of_others

FAILED = 1
GRACE = 5.0  # seconds in which a rank that met an error, or has seen one of another, ends by itself
POLL = 0.5
MARK = "hydra.job.name=train_ddp_process_"  # what Lightning adds to the command of a rank that it starts
# What the first rank has in the environment of those that it starts:
FIRST = "OBORO_FIRST_RANK"  # its process
MESSAGES = "OBORO_RANK_MESSAGES"  # a folder: which mistake ended a rank, which prints none, as it may be that of all

_started: list[Popen] = []  # by this process, rank 1 first
_over = threading.Event()


def prepare_environment() -> None:
    """For the ranks that this process is about to start."""
    os.environ[FIRST] = str(os.getpid())
    with contextlib.suppress(OSError):  # no place for temporary files: then without the messages
        os.environ[MESSAGES] = tempfile.mkdtemp(prefix="oboro-ranks-")


def supervise(processes: Sequence[Popen]) -> None:
    """Until the block of ``supervised`` ends, the end of one of ``processes`` is the end of all."""
    _started.extend(processes)
    _over.clear()
    threading.Thread(target=_observe, name="ranks", daemon=True).start()


def _observe() -> None:
    while not _over.wait(POLL):
        failed = None if interrupt.ends() else failure()
        if failed is not None and not _over.wait(GRACE):  # in a collective that does not notice
            end_all(f"{failed}, and the others cannot go on without it")


@contextlib.contextmanager
def supervised() -> Iterator[None]:
    """A command, in each of its ranks. The first one ends the others when it ends, and these end when it is gone.

    Where a collective fails because another rank has failed, the first raises ``UserError`` that names it; the others
    end with one line.
    """
    if is_started_rank():
        with _not_alone():
            yield
        return
    try:
        yield
    except Exception as error:
        _await_end(GRACE)
        failed = failure()
        if failed is not None and _is_of_others(error):
            raise UserError(f"{failed}, and the others cannot go on without it") from error
        if of_others() and _is_of_others(error):
            raise SystemExit(f"rank {global_rank()} has lost the others: {str(error).splitlines()[0]}") from None
        raise
    except interrupt.Interrupted:
        for process in _started:  # that may not have met the signal
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        raise
    finally:
        _over.set()
        _await_end(GRACE)
        kill_ranks()


@contextlib.contextmanager
def _not_alone() -> Iterator[None]:
    parent = os.environ.get(FIRST) if os.name == "posix" else None  # Windows may have a process in between
    first, over = int(parent or os.getppid()), threading.Event()

    def watch() -> None:
        while not over.wait(POLL):
            if os.getppid() != first and not over.wait(GRACE):
                _remove_messages()
                os._exit(FAILED)

    threading.Thread(target=watch, name="first rank", daemon=True).start()
    try:
        yield
    except Exception as error:
        if not _is_of_others(error):
            _leave_message(error)
            raise
        raise SystemExit(f"rank {os.environ['LOCAL_RANK']} has lost the others: {str(error).splitlines()[0]}") from None
    finally:
        over.set()
        if os.getppid() != first:
            _remove_messages()


def _leave_message(error: Exception) -> None:
    message = explain(error)
    if message is not None and not isinstance(error, OwnFault):  # others print their own
        with contextlib.suppress(OSError, KeyError):
            Path(os.environ[MESSAGES], os.environ["LOCAL_RANK"]).write_text(message, encoding="utf-8")


def _message(rank: int) -> str | None:
    try:
        text = Path(os.environ[MESSAGES], str(rank)).read_text(encoding="utf-8")
    except (OSError, KeyError):
        return None
    return visible(" ".join(text.split())).rstrip(".")


def _remove_messages() -> None:
    if folder := os.environ.pop(MESSAGES, None):
        shutil.rmtree(folder, ignore_errors=True)


def _is_of_others(error: Exception) -> bool:
    from oboro.base.distributed import is_collective_error  # with torch, which a command that has ranks has by now

    return bool(_started or is_started_rank() or of_others()) and is_collective_error(error)


def is_started_rank() -> bool:
    """Whether this process is a rank that the first one of its run has started."""
    return any(argument.startswith(MARK) for argument in sys.argv)


def failure() -> str | None:
    """How the first of the other ranks that failed has ended."""
    for rank, process in enumerate(_started, 1):
        status = process.poll()
        if status is not None and status < 0:
            hint = " (as systems do that run out of memory)" if -status == signal.SIGKILL else ""
            return f"rank {rank} was ended by {signal.Signals(-status).name}{hint}"
        if status:
            message = _message(rank)
            return (
                f"rank {rank} failed ({message})"
                if message
                else f"rank {rank} ended with status {status} (its own error is above)"
            )
    return None


def _await_end(seconds: float) -> None:
    last = time.monotonic() + seconds
    for process in _started:
        with contextlib.suppress(TimeoutExpired):
            process.wait(max(0.0, last - time.monotonic()))


def kill_ranks() -> None:
    """By SIGKILL, which a process in a collective, or one that is stopped, cannot miss."""
    for process in _started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    _started.clear()
    if not is_started_rank():
        _remove_messages()


def end_all(message: str, first: bool = False) -> NoReturn:
    """``error: <message>.``, and the end of this process and of the ranks that it started; with ``first``, of the one
    that started it, too."""
    print(f"error: {message}.", file=sys.stderr, flush=True)
    kill_ranks()
    if first and is_started_rank():
        os.kill(os.getppid(), signal.SIGKILL)
    os._exit(FAILED)


def leave_taken_port() -> str | None:
    """Where the port that the environment names for the ranks to meet at is taken, forget it: they will meet at another
    one. A line that says so, or None."""
    port = os.environ.get("MASTER_PORT", "")
    if "LOCAL_RANK" in os.environ or not port.isdigit():  # others start the ranks: they have agreed on it
        return None
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch does
        try:
            door.bind(("", int(port)))
        except OSError:
            del os.environ["MASTER_PORT"]
            return f"port {port} (MASTER_PORT) is taken, so the processes of this run meet at another one"
    return None
