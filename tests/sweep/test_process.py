"""A process group ends as a whole."""

import os
from pathlib import Path

import pytest

from oboro.sweep.process import Process, environment, free_port


@pytest.fixture
def start(tmp_path):
    """``start(script)``: a shell's process in ``tmp_path``, with a pipe ``gate`` to wait at."""
    os.mkfifo(tmp_path / "gate")
    with (tmp_path / "lock").open("w") as lock:
        yield lambda script: Process(
            ["sh", "-c", script], tmp_path, tmp_path, environment(free_port([]), []), lock.fileno()
        )


def status(process: Process) -> int:
    while (code := process.ended()) is None:
        pass
    return code


def test_other_ranks_may_finish_after_the_first_one_has_succeeded(start, tmp_path):
    process = start("(read line < gate; touch finished) & exit 0")
    while process.alive:
        pass
    assert process.ended() is None
    (tmp_path / "gate").write_text("go on\n")
    assert status(process) == 0 and Path(tmp_path / "finished").exists()


@pytest.mark.parametrize(("end", "code"), [("exit 3", 3), ("kill -SEGV $$", -11)])
def test_the_others_end_when_the_first_one_fails(start, tmp_path, end, code):
    os.mkfifo(tmp_path / "open")
    process = start(f"(exec 3<>open; echo > gate; sleep 1000) & read line < gate; {end}")
    assert status(process) == code
    while has_reader(tmp_path / "open"):  # for ever, if the sleeper lives
        pass


def has_reader(pipe: Path) -> bool:
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
