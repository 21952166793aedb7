"""No terminal, pipe or full disk at the end of stdout or stderr ends a run, or loses its results."""

import errno
import io
import os
import subprocess
import sys
from contextlib import redirect_stdout

import processes
import pytest

import runs
from oboro.cli.ending import ending

NAME = "é→字\udc80 ± 3"  # of a file, with a byte that is no UTF-8


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "e->\\u5b57\\udc80 +- 3"), ("cp1252", "é->\\u5b57\\udc80 ± 3")]
)
def test_what_an_encoding_lacks_is_written_plainly(encoding, shown):
    file = io.BytesIO()
    with redirect_stdout(io.TextIOWrapper(file, encoding, write_through=True)), ending():
        print(NAME)
        assert file.getvalue().decode(encoding).strip() == shown


@pytest.mark.parametrize(("number", "status"), [(errno.EPIPE, 141), (errno.ENOSPC, 1), (errno.EIO, 1)])
def test_the_block_goes_on_where_stdout_fails_and_the_status_says_it(number, status):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError(number, os.strerror(number))

        def fileno(self):
            return spare.fileno()

    done = []
    with open(os.devnull) as spare, redirect_stdout(Broken()), pytest.raises(SystemExit) as end, ending():
        print("first")
        with ending():  # that of a job within that of the command
            print("second")
        done.append(True)
    assert done
    line = f"error: stdout cannot be written: {os.strerror(number)}; files are written all the same."
    assert end.value.code == (141 if status == 141 else line)


def test_a_failure_of_the_block_keeps_its_own_status():
    with open("/dev/full", "w") as full, redirect_stdout(full), pytest.raises(SystemExit) as end, ending():
        print("x" * 100_000)
        raise SystemExit(7)
    assert end.value.code == 7


def test_closed_streams_are_no_files_of_the_program(tmp_path):
    """``python train.py --cfg job >&- 2>&-``: what is opened next would get the numbers 1 and 2."""
    code = (
        "import os, sys; from oboro.cli.ending import ending\n"
        "with ending():\n"
        f"    file = open({str(tmp_path / 'data')!r}, 'w'); print('hello'); print('hello', file=sys.stderr)\n"
        "    os.write(1, b'noise'); os.write(2, b'noise'); sys.exit(0 if file.fileno() > 2 else 9)"
    )
    command = f'exec "{sys.executable}" -c "$CODE" >&- 2>&-'
    done = subprocess.run(["bash", "-c", command], env={**os.environ, "CODE": code})
    assert done.returncode == 0 and (tmp_path / "data").read_bytes() == b""


def test_help_into_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, runs.ROOT / "train.py", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1 and done.stderr.startswith("error: stdout cannot be written: No space left on device")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_without_any_stream_of_use_leaves_all_its_files(tmp_path):
    """stdout full, ASCII alone, no locale, stderr closed: numbers are those of any run."""
    settings = ("trainer.max_steps=4", "callbacks=[sample_metrics,checkpoints,progress,summary]")
    whole = runs.train(tmp_path / "whole", *settings)
    folder = tmp_path / "hostile"
    plain = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    folder.mkdir()
    typed = runs.outputs(folder, *runs.toy(*settings))
    done = subprocess.run(
        ["bash", "-c", 'exec "$0" "$@" >/dev/full 2>&-', sys.executable, str(runs.ROOT / "train.py"), *typed],
        cwd=folder,
        env={**os.environ, **plain},
        timeout=processes.LIMIT,
    )
    assert done.returncode == 1
    run = runs.Run(1, "", "", folder)
    assert run.logged("fd_fashion_20") == whole.logged("fd_fashion_20") and (folder / "result.json").exists()
    assert runs.equal(run.checkpoint()["state_dict"], whole.checkpoint()["state_dict"])
